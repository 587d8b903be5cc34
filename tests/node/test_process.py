"""Real children through the real launcher: how they live, what they say, how they end."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutput
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rolemesh.core import endings
from rolemesh.node import launcher
from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Child, Exit, run_child

SLEEP = "import time; time.sleep(60)"
PATIENCE = 50  # seconds; less than the children sleep
AGENT = """
import os, sys
from twisted.internet import reactor
from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Child, run_child
say = LineCutter(lambda lines: os.write(1, b"".join(line + b"\\n" for line in lines)))
command = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
run_child(reactor, Child(say, say, print), command, os.environ)
reactor.run()
"""


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def until(true: Callable[[], object]) -> None:
    """Wait until something is so; the test's own timeout is the limit."""
    while not true():
        await deferLater(reactor, 0.01)


class Run:
    """One child under test."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self.lines: list[bytes] = []
        self.ended: Deferred[Exit] = Deferred()
        cutters = LineCutter(self.lines.extend), LineCutter(self.lines.extend)
        self.child = Child(*cutters, self.ended.callback)
        run_child(reactor, self.child, command, os.environ if env is None else env)

    async def first_line(self) -> bytes:
        await until(lambda: self.lines)
        return self.lines[0]


def python(code: str) -> Run:
    return Run(sys.executable, "-c", code)


class ProcessTestCase(TestCase):
    timeout = PATIENCE

    def setUp(self) -> Any:
        """A test that ends while its reactor starts would leave the next one without SIGCHLD."""
        return deferLater(reactor, 0)


class ChildTests(ProcessTestCase):
    async def test_lines_and_exit_code(self) -> None:
        """What a child wrote last is there when its exit is told, without a newline too."""
        run = python("import sys; print('one'); sys.stderr.write('two'); sys.exit(3)")
        self.assertEqual(await run.ended, Exit(3, None))
        self.assertEqual(sorted(run.lines), [b"one", b"two"])

    async def test_a_signal_is_told_as_one(self) -> None:
        """A child that was killed has no exit code."""
        run = python(SLEEP)
        run.child.kill()
        self.assertEqual(await run.ended, Exit(None, signal.SIGKILL))

    async def test_A12_terminate_wakes_a_stopped_child(self) -> None:
        """SIGTERM reaches a child that SIGSTOP holds."""
        run = python(f"print(1, flush=True); {SLEEP}")
        await run.first_line()
        os.kill(run.child.pid, signal.SIGSTOP)
        run.child.terminate()
        self.assertEqual(await run.ended, Exit(None, signal.SIGTERM))

    async def test_A12_kill_reaches_what_the_child_forked(self) -> None:
        """The whole process group ends, a grandchild that ignores SIGTERM too."""
        run = Run("sh", "-c", "(trap '' TERM; sleep 60) & echo $!; wait")
        grandchild = int(await run.first_line())
        run.child.kill()
        await run.ended
        await until(lambda: not alive(grandchild))

    async def test_A14_what_a_child_forked_ends_with_it(self) -> None:
        """Nothing of its group keeps its port or its GPU."""
        run = Run("sh", "-c", "sleep 60 & echo $!")
        self.assertEqual(await run.ended, Exit(0, None))
        await until(lambda: not alive(int(run.lines[0])))

    async def test_the_exit_does_not_wait_for_who_holds_the_pipes(self) -> None:
        """A grandchild in a session of its own holds standard output; the exit is told at once."""
        forked = python(
            "import subprocess, sys; sleeper = subprocess.Popen("
            f"[sys.executable, '-c', {SLEEP!r}], start_new_session=True); print(sleeper.pid)"
        )
        self.assertEqual(await forked.ended, Exit(0, None))
        holder = int(forked.lines[0])
        self.assertTrue(alive(holder))
        await until(lambda: not getattr(forked.child.transport, "pipes"))  # noqa: B009
        os.kill(holder, signal.SIGKILL)

    async def test_A33_every_child_is_reaped(self) -> None:
        """No zombie is left of children that end at once."""
        runs = [python("pass") for _ in range(5)]
        for run in runs:
            await run.ended
            self.assertFalse(Path(f"/proc/{run.child.pid}").exists())

    async def test_A28_a_flood_does_not_block_the_child(self) -> None:
        """A child that writes megabytes comes to its end, and every line was read."""
        run = python("print('y\\n' * 10**6)")
        await run.ended
        self.assertEqual(run.lines.count(b"y"), 10**6)

    async def test_A29_an_agent_that_is_held_up_does_not_hold_up_the_child(self) -> None:
        """Nearly a MiB is written while nobody reads; afterwards every line of it is there."""
        done = Path(self.mktemp()).absolute()
        run = python(
            f"print('y' * 1023 + '\\n' * 1, end='', flush=True); import pathlib; "
            f"print(('y' * 1023 + '\\n') * 999, end='', flush=True); "
            f"pathlib.Path({str(done)!r}).touch()"
        )
        await run.first_line()
        deadline = time.monotonic() + PATIENCE / 2
        while not done.exists() and time.monotonic() < deadline:
            time.sleep(0.01)  # the reactor stands
        self.assertTrue(done.exists())
        await run.ended
        self.assertEqual(len(run.lines), 1000)


class LauncherTests(ProcessTestCase):
    async def test_the_child_has_a_session_of_its_own(self) -> None:
        """A signal to the agent's group, as Ctrl-C is, does not reach it."""
        run = python("import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))")
        await run.ended
        self.assertEqual(run.lines, [b"True"])

    async def test_the_child_finds_signals_and_descriptors_as_a_shell_gives_them(self) -> None:
        """SIGPIPE ends it, no core is written, and nothing beyond the three streams is open."""
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, limits)
        run = Run("sh", "-c", "grep SigIgn /proc/self/status; ulimit -c; ls /proc/self/fd | wc -l")
        await run.ended
        ignored, core, descriptors = run.lines
        self.assertEqual(int(ignored.split()[1], 16) & (1 << (signal.SIGPIPE - 1)), 0)
        self.assertEqual(core, b"0")
        self.assertEqual(int(descriptors), 4)  # ls holds the folder that it lists

    def test_the_launcher_passes_on_no_descriptor(self) -> None:
        """Whatever it was left by who called it."""
        command = [sys.executable, launcher.__file__, "0", "sh", "-c", "ls /proc/self/fd | wc -l"]
        left = os.open(os.devnull, os.O_RDONLY)
        self.addCleanup(os.close, left)
        counted = subprocess.run(command, pass_fds=[left], stdout=subprocess.PIPE, check=True)
        self.assertEqual(int(counted.stdout), 4)  # as above

    async def test_the_environment_is_the_one_given(self) -> None:
        """A child gets what it was given and no more."""
        run = Run("/usr/bin/env", env={"LLAMA_API_KEY": "secret"})
        await run.ended
        self.assertIn(b"LLAMA_API_KEY=secret", run.lines)
        self.assertNotIn(b"HOME", b"".join(run.lines))

    async def test_A1_a_missing_program_is_told_by_name_of_error(self) -> None:
        """A program that is not there ends with 127 and is told by its name; no path is."""
        run = Run("/nowhere/llama-server")
        self.assertEqual(await run.ended, Exit(127, None))
        *before, last = run.lines
        self.assertEqual(before, [b"llama-server: No such file or directory"])
        self.assertEqual(last, b"rolemesh launcher: cannot run: ENOENT")

    async def test_A1_a_program_that_may_not_be_run_is_told_so(self) -> None:
        """A file without the right to be run is another error than a missing one."""
        file = Path(self.mktemp())
        file.write_text("no program")
        run = Run(str(file.absolute()))
        await run.ended
        self.assertEqual(run.lines[-1], b"rolemesh launcher: cannot run: EACCES")

    async def test_A20_a_killed_agent_leaves_no_server(self) -> None:
        """SIGKILL to the agent ends its child with it."""
        agent = Agent()
        child = await agent.child_pid
        self.assertTrue(alive(child))
        os.kill(agent.pid, signal.SIGKILL)
        await agent.ended
        await until(lambda: not alive(child))

    async def test_A20_an_agent_that_is_gone_already_leaves_no_server(self) -> None:
        """A launcher whose parent is not the agent that called it runs nothing."""
        wrong_parent = str(os.getppid())
        arguments = ["-I", "-S", launcher.__file__, wrong_parent, "echo", "it runs"]
        self.assertEqual(await getProcessOutput(sys.executable, arguments), b"")


class Agent(Child):
    """A process that runs a child as the agent does."""

    def __init__(self) -> None:
        self.child_pid: Deferred[int] = Deferred()
        self.ended: Deferred[Exit] = Deferred()
        out = LineCutter(lambda lines: self.child_pid.callback(int(lines[0])))
        super().__init__(out, LineCutter(lambda _: None), self.ended.callback)
        reactor.spawnProcess(self, sys.executable, [sys.executable, "-c", AGENT], env=None)


class WordsTests(SynchronousTestCase):
    def test_core_knows_the_launchers_last_words(self) -> None:
        """The launcher imports nothing of ours, so its words stand twice; they are the same."""
        self.assertEqual(launcher.NOT_RUN, endings.NOT_RUN)
