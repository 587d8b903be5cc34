"""What both programs share, run as real processes under twistd."""

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.service import LOCKED, MISCONFIGURED, NO, OK, Listening, keep_steady

ROOT = Path(__file__).parent.parent
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
PATIENCE = 20  # seconds; only a broken program takes them

PLUGIN = """
from twisted.application.service import ServiceMaker
probe = ServiceMaker("probe", "probe", "A program to test.", "probe")
"""

PROGRAM = """
import os
from pathlib import Path
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from rolemesh.config.problems import ConfigError, Position, Problem
from rolemesh.service import Listening, ServiceOptions, Signals
from rolemesh.systemd import Systemd

log = Logger()

class Options(ServiceOptions):
    config_file = "probe.yaml"
    config_variable = "PROBE_CONFIG"

    def load(self, path):
        words = path.read_text().split()
        if "wrong" in words:
            raise ConfigError(
                Problem(path.name, Position(line), "cannot be") for line in (1, 2)
            )
        return words

class Draining(Service):
    def __init__(self, reactor, ends):
        self.reactor, self.ends = reactor, ends

    def stopService(self):
        log.info("draining")
        return deferLater(self.reactor, 0.2, log.info, "drained") if self.ends else Deferred()

def makeService(options):
    from twisted.internet import reactor
    def reload():
        log.info("reloading", **{"probe.key": "rmk_abcdef"})
        if "stubborn" in options.settings:
            raise ValueError("no, thank you")
    parent = MultiService()
    for part in (
        Signals(reactor, reload, lambda: print("hurried"), Systemd(reactor, {}, 0)),
        Draining(reactor, "stuck" not in options.settings),
        Listening(reactor, [(word, Factory()) for word in options.settings if ":" in word]),
    ):
        part.setServiceParent(parent)
    reactor.callWhenRunning(log.info, "running")
    return parent
"""


class Program:
    """A process of the probe, in a folder of its own."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        self.process = subprocess.Popen(
            [*TWISTD, *arguments],
            cwd=folder,
            env={**environment, "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self._killer = Timer(PATIENCE, self.process.kill)
        self._killer.start()

    def until(self, message: str) -> None:
        """Read the log as far as a line with this in its message."""
        for line in self._log():
            if message in line["message"]:
                return
        raise AssertionError(f"{message!r} was not logged: {self.end()}")

    def end(self) -> tuple[int, list[str]]:
        """Read to the end: the exit code, and the lines on standard error."""
        assert self.process.stderr is not None
        for _ in self._log():
            pass
        errors = self.process.stderr.read().splitlines()
        return self.process.wait(), errors

    def close(self) -> None:
        """Kill it, should it still live."""
        self._killer.cancel()
        with self.process:
            self.process.kill()

    def _log(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            yield self.lines[-1]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]


class Case(SynchronousTestCase):
    """Starts the probe; whatever a test leaves running is killed."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "twisted/plugins").mkdir(parents=True)
        (self.folder / "twisted/plugins/probe_plugin.py").write_text(PLUGIN)
        (self.folder / "probe.py").write_text(PROGRAM)

    def start(self, settings: str = "", *, twistd: tuple[str, ...] = ("-n",)) -> Program:
        (self.folder / "probe.yaml").write_text(settings)
        return self.twistd(*twistd, "probe", "--config", "probe.yaml", "--state", "state")

    def twistd(self, *arguments: str) -> Program:
        program = Program(self.folder, arguments)
        self.addCleanup(program.close)
        return program


class SteadyTests(SynchronousTestCase):
    def test_L8_no_timer_moves_with_the_time_of_day(self) -> None:
        """A reactor measures by the monotonic clock, its timers included."""
        reactor = EPollReactor()
        keep_steady(reactor)
        call = reactor.callLater(10, lambda: None)
        self.assertTrue(5 < call.getTime() - time.monotonic() <= 10)
        call.cancel()


COLLECTIONS = """
import gc
from rolemesh.service import collect_less
collect_less()
begun = []
gc.callbacks.append(lambda phase, _: begun.append(phase == "start"))
kept = [[] for _ in range(15_000)]
quiet = not begun
for _ in range(30_000):
    cycle = []
    cycle.append(cycle)
print(quiet, sum(begun), len(gc.get_objects()) < 20_000 + len(kept))
"""


class CollectLessTests(SynchronousTestCase):
    def test_cycles_are_found_seldom(self) -> None:
        """What stood before is not looked at again, and cycles are still found in time."""
        argv = [sys.executable, "-c", COLLECTIONS]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
        quiet, collections, few = done.stdout.split()
        self.assertEqual((quiet, few), ("True", "True"))
        self.assertIn(int(collections), (2, 3))


class SignalTests(Case):
    def asked_to_stop(self, number: signal.Signals, settings: str = "") -> Program:
        program = self.start(settings)
        program.until("running")
        program.process.send_signal(number)
        program.until("draining")
        return program

    def test_terminated(self) -> None:
        """The first SIGTERM lets the services drain; the exit code is 0."""
        program = self.asked_to_stop(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        self.assertIn("drained", program.messages())

    def test_interrupted(self) -> None:
        """Ctrl-C does as SIGTERM does."""
        program = self.asked_to_stop(signal.SIGINT)
        self.assertEqual(program.end(), (OK, []))
        self.assertIn("drained", program.messages())

    def test_terminated_twice(self) -> None:
        """The second SIGTERM hurries and ends the process, whatever still drains."""
        program = self.asked_to_stop(signal.SIGTERM, "stuck")
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        self.assertEqual(
            program.messages()[-3:],
            ["SIGTERM again: ending at once", "hurried", "the process ends with exit code 0"],
        )

    def test_no_pidfile(self) -> None:
        """With -n no pidfile is written, neither here nor in the state folder."""
        program = self.start()
        program.until("running")
        self.assertEqual([path.name for path in self.folder.rglob("*.pid")], [])

    def test_reload(self) -> None:
        """SIGHUP reloads; a reload that fails is logged, and the program goes on."""
        program = self.start("stubborn")
        program.until("running")
        for _ in range(2):
            program.process.send_signal(signal.SIGHUP)
            program.until("reloading")
        program.process.send_signal(signal.SIGTERM)
        self.assertEqual(program.end(), (OK, []))
        errors = [line for line in program.lines if "error.type" in line]
        self.assertEqual([line["error.message"] for line in errors], ["no, thank you"] * 2)


class LogTests(Case):
    def test_json_lines(self) -> None:
        """With -n each line of standard output is a JSON object, from the first to the last."""
        program = self.start()
        program.until("running")
        program.process.send_signal(signal.SIGTERM)
        program.end()
        self.assertIn("starting up", program.messages()[0])
        self.assertEqual(program.messages()[-1], "Server Shut Down.")
        for line in program.lines:
            self.assertLessEqual({"@timestamp", "log.level", "log.logger", "message"}, line.keys())

    def test_no_secrets(self) -> None:
        """A key that is logged never reaches the output."""
        program = self.start()
        program.until("running")
        program.process.send_signal(signal.SIGHUP)
        program.until("reloading")
        self.assertEqual(program.lines[-1]["probe.key"], "rmk_***")

    def test_choice_of_the_user(self) -> None:
        """`--logfile FILE` has the JSON lines in that file; `--logger` has them as it likes."""
        for chosen in (("--logfile", "log"), ("--logger", "twisted.logger.STDLibLogObserver")):
            program = self.start("tcp:-1", twistd=("-n", *chosen))
            program.end()
            self.assertEqual(program.lines, [])
        first = (self.folder / "log").read_text().splitlines()[0]
        self.assertIn("starting up", json.loads(first)["message"])

    def test_A31_a_log_that_was_moved_away(self) -> None:
        """SIGUSR1 has the lines from then on in a fresh file of the old name."""
        program = self.start(twistd=("-n", "--logfile", "log"))
        log, moved = self.folder / "log", self.folder / "log.1"
        _eventually(lambda: log.exists() and "running" in log.read_text())
        log.rename(moved)
        program.process.send_signal(signal.SIGUSR1)
        _eventually(log.exists)
        program.process.send_signal(signal.SIGTERM)
        program.end()
        first, *_, last = log.read_text().splitlines()
        self.assertIn("the log goes on here", json.loads(first)["message"])
        self.assertEqual(json.loads(last)["message"], "Server Shut Down.")
        self.assertNotIn("Server Shut Down", moved.read_text())


def _eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError("it did not happen")
        time.sleep(0.02)


class RefusalTests(Case):
    def refused(self, program: Program, code: int) -> list[str]:
        """What it says on standard error, having ended with the code and without a log."""
        ended, errors = program.end()
        self.assertEqual(ended, code, errors)
        self.assertEqual(program.lines, [])
        return errors

    def test_locked(self) -> None:
        """A second program on one state folder exits 75 in one line that names the first one."""
        first = self.start()
        first.until("running")
        [line] = self.refused(self.start(), LOCKED)
        self.assertIn(f"process {first.process.pid};", line)

    def test_no_configuration(self) -> None:
        """Without a configuration: one line that lists what was tried, exit 78."""
        [line] = self.refused(self.twistd("-n", "probe"), MISCONFIGURED)
        for tried in ("configs/probe.yaml", ".config/rolemesh/probe.yaml", "/etc/rolemesh/probe"):
            self.assertIn(tried, line)

    def test_wrong_configuration(self) -> None:
        """Each problem of a configuration is one line, and nothing else is said."""
        lines = self.refused(self.start("wrong"), MISCONFIGURED)
        self.assertEqual(lines, ["probe.yaml:1:1: cannot be", "probe.yaml:2:1: cannot be"])

    def test_wrong_option(self) -> None:
        """An option that does not exist is one line, and no page of help."""
        for wrong in ("--bogus", "--config", "word"):
            [line] = self.refused(self.twistd("-n", "probe", wrong), MISCONFIGURED)
            self.assertIn(wrong.lstrip("-"), line)

    def test_wrong_endpoint(self) -> None:
        """An endpoint that cannot be is told before anything starts."""
        [line] = self.refused(self.start("tpc:8000"), MISCONFIGURED)
        self.assertIn("'tpc:8000'", line)

    def test_state_folder(self) -> None:
        """A state folder that cannot be made is one line."""
        (self.folder / "state").write_text("a file")
        [line] = self.refused(self.start(), MISCONFIGURED)
        self.assertIn("--state", line)


class PluginTests(Case):
    """The gateway and the node agent themselves."""

    PROGRAMS = (
        ("rolemesh-gateway", "roles: {planner: http://127.0.0.1:9}", "listening on"),
        ("rolemesh-node", "gateway: http://127.0.0.1:9", "not told"),
    )

    def start_plugin(self, name: str, settings: str) -> Program:
        (self.folder / "settings.yaml").write_text(settings)
        options = ["--listen", "tcp:0:interface=127.0.0.1"] if name == "rolemesh-gateway" else []
        return self.twistd("-n", name, "-c", "settings.yaml", "--state", "state", *options)

    def test_terminated(self) -> None:
        """Both end with 0 after SIGTERM, and say nothing but JSON lines."""
        for name, settings, sign in self.PROGRAMS:
            program = self.start_plugin(name, settings)
            program.until(sign)
            program.process.send_signal(signal.SIGTERM)
            self.assertEqual(program.end(), (OK, []))

    def test_wrong_configuration(self) -> None:
        """Both end with 78 and one line for each problem of their configuration."""
        for name, _, _ in self.PROGRAMS:
            code, errors = self.start_plugin(name, "bogus: 1\nwrong: 2").end()
            self.assertEqual(code, MISCONFIGURED)
            self.assertTrue(all("settings.yaml:" in line for line in errors), errors)
            self.assertGreaterEqual(len(errors), 2)


class DaemonTests(Case):
    def test_daemon(self) -> None:
        """Without -n all that it writes is in the state folder, which is private."""
        self.assertEqual(self.start(twistd=()).end(), (OK, []))
        pid = int((self.folder / "state/probe.pid").read_text())
        killer = Timer(PATIENCE, os.kill, (pid, signal.SIGKILL))
        killer.start()
        self.addCleanup(killer.cancel)
        second, [line] = self.start(twistd=()).end()
        os.kill(pid, signal.SIGTERM)
        self.assertEqual(second, LOCKED)
        self.assertIn(f"process {pid};", line)
        with (self.folder / "state/probe.lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # had once the daemon has ended
        state = self.folder / "state"
        self.assertEqual(sorted(os.listdir(state)), ["probe.lock", "probe.log"])
        self.assertEqual(state.stat().st_mode & 0o777, 0o700)
        log = (state / "probe.log").read_text().splitlines()
        self.assertIn("drained", [json.loads(line)["message"] for line in log])


class ListeningTests(Case):
    def test_busy_port(self) -> None:
        """A port that is taken ends the program with 1: one line on standard error, one logged."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
            program = self.start(f"tcp:0:interface=127.0.0.1 {endpoint}")
            code, errors = program.end()
        said = f"cannot listen on {endpoint}: Address already in use; free it or choose another"
        self.assertEqual((code, errors), (NO, [said]))
        told = [line["message"] for line in program.lines if line["log.level"] == "critical"]
        self.assertEqual(told, [said])

    def test_stop(self) -> None:
        """Once stopped, nothing is accepted; stopping again is harmless."""
        reactor = MemoryReactorClock()
        listening = Listening(reactor, [("tcp:8000", Factory()), ("tcp:8001", Factory())])
        listening.startService()
        self.assertEqual(len(listening.ports), 2)
        self.successResultOf(listening.stopService())
        self.successResultOf(listening.stopService())
        self.assertEqual(listening.ports, [])
