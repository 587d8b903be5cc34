"""Real processes that go on when their agent ends, and are adopted: once, and only by who may."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rolemesh.config.node import GpuChoice, Run
from rolemesh.node import proc
from rolemesh.node.aside import Aside
from rolemesh.node.gpu import Gpus
from rolemesh.node.identity import Records
from rolemesh.node.keeping import Keeping, wish
from rolemesh.node.logs import LineCutter
from rolemesh.node.machine import Machine
from rolemesh.node.means import Door, Taken
from rolemesh.node.past import Past
from rolemesh.node.process import Child, Exit
from tests.node.test_process import alive, until

SERVER = "import time; print('it serves', flush=True); time.sleep(60)"


class Agent:
    """The parts of one agent that know of processes."""

    def __init__(self, state: Path) -> None:
        clock: Any = reactor
        aside, self.records = Aside(clock), Records(state / "servers")
        self.keeping = Keeping(clock, self.records, aside)
        own = f"me-{os.getpid()}"  # whose servers nobody else's tests may end
        self.past = Past(clock, aside, self.records, own, self.keeping)
        gpus, models = Gpus(clock, clock, {}), Aside(clock)
        self.machine = Machine(clock, clock, range(18100, 18200), gpus, {}, self.past, models)
        self.lines: list[bytes] = []
        self.ended: Deferred[Exit] = Deferred()

    async def start(self, run: Run) -> tuple[Child, Door]:
        """As a supervisor does it."""
        await self.machine.make_room(run)
        cutter = LineCutter(self.lines.extend)
        child = Child(cutter, cutter, self.ended.callback)
        door = self.machine.open_door(run)
        self.machine.run_server(run, door, child)
        await self.machine.record(run, door, child.pid)
        return child, door

    async def adopt(self, run: Run) -> Taken | None:
        await self.past.end_survivors({run.id: run})
        taken = await self.machine.adopt(
            run, LineCutter(self.lines.extend), lambda status: self.ended.callback(status)
        )
        if taken is not None:
            taken.process.watch()
        return taken


class KeepingTestCase(TestCase):
    timeout = 50  # less than the servers sleep

    def setUp(self) -> None:
        self.state = Path(self.mktemp()).absolute()
        self.state.mkdir()
        model = self.state / "m.gguf"
        model.touch()
        program = (sys.executable, "-c", SERVER)
        self.entry = Run("gpu0", "tiny", model, GpuChoice(none=True), llama_server=program)
        self.first = Agent(self.state)

    async def begin(self) -> tuple[Child, Door]:
        child, door = await self.first.start(self.entry)
        self.addCleanup(self.end, self.first, child.pid)
        await until(lambda: self.first.lines)
        return child, door

    async def end(self, agent: Agent, pid: int) -> None:
        if alive(pid):
            os.kill(pid, signal.SIGKILL)
        await agent.ended
        await agent.past.settle()


class AdoptTests(KeepingTestCase):
    async def test_A5_A20_it_is_adopted_with_its_port_and_its_key(self) -> None:
        """Its key is on no disk: it is read from the environment that the process was given."""
        child, door = await self.begin()
        second = Agent(self.state)
        taken = await second.adopt(self.entry)
        assert taken is not None
        self.assertEqual((taken.process.pid, taken.door), (child.pid, door))
        self.assertEqual(list(taken.tail), [b"it serves"])
        self.assertNotIn(door.key.encode(), (self.state / "servers/gpu0.json").read_bytes())
        self.assertIsNone(await second.machine.adopt(self.entry, LineCutter(print), print))
        taken.process.leave()

    async def test_A12_A20_its_end_is_told_though_it_is_not_our_child(self) -> None:
        """How it ended only its parent knows. One that SIGSTOP holds is woken to end."""
        child, _ = await self.begin()
        os.kill(child.pid, signal.SIGSTOP)
        second = Agent(self.state)
        taken = await second.adopt(self.entry)
        assert taken is not None
        taken.process.terminate()
        self.assertEqual(await second.ended, Exit(None, None))
        self.assertFalse(alive(child.pid))

    async def test_A20_a_kill_is_a_kill(self) -> None:
        """Also of one that does not listen."""
        child, _ = await self.begin()
        os.kill(child.pid, signal.SIGSTOP)
        second = Agent(self.state)
        taken = await second.adopt(self.entry)
        assert taken is not None
        taken.process.kill()
        await second.ended

    async def test_A21_its_age_is_the_processs_own(self) -> None:
        """The clock of a load goes on where it was."""
        child, _ = await self.begin()
        found = proc.process(child.pid)
        assert found is not None
        self.assertLess(proc.age(found), 30)
        longer = evolve(found, started=found.started - 600 * os.sysconf("SC_CLK_TCK"))
        self.assertGreater(proc.age(longer), 600)
        self.patch(proc, "age", lambda _: 600.0)
        taken = await Agent(self.state).adopt(self.entry)
        assert taken is not None
        taken.process.leave()
        self.assertEqual(taken.age, 600)

    async def test_A5_what_belongs_to_no_entry_is_ended(self) -> None:
        """The file does not have it any more, or asks for something else."""
        changed = evolve(self.entry, env={"X": "1"})
        self.assertNotEqual(wish(changed), wish(self.entry))
        child, _ = await self.begin()
        second = Agent(self.state)
        self.assertIsNone(await second.adopt(changed))
        await self.first.ended
        self.assertFalse(alive(child.pid))

    async def test_A5_one_at_another_address_is_not_adopted(self) -> None:
        """It is ended by the start that follows, before a second one runs."""
        child, _ = await self.begin()
        second = Agent(self.state)
        second.machine.address = "127.0.0.2"
        self.assertIsNone(await second.adopt(self.entry))
        self.assertTrue(alive(child.pid))
        await second.machine.make_room(self.entry)
        self.assertFalse(alive(child.pid))
        await self.first.ended

    async def test_A22_a_process_that_only_has_its_pid_is_not_adopted(self) -> None:
        """Nor is it ended."""
        await self.begin()
        (record,) = self.first.records.read()
        self.first.records.write(replace(record, started=record.started + 1, instance="other"))
        agent = Agent(self.state)
        self.assertEqual(await agent.adopt(self.entry), None)
        self.assertEqual(agent.keeping.waiting, {})


class RefusedTests(KeepingTestCase):
    async def test_A30_what_cannot_be_kept_ends_with_its_agent(self) -> None:
        """A folder that takes nothing: a server with pipes, as without `keep`, and a word of it."""
        (self.state / "servers").touch()
        child, _ = await self.first.start(self.entry)
        self.addCleanup(self.end, self.first, child.pid)
        self.assertIsNone(child.output)
        self.assertFalse(self.first.machine.keeps(self.entry))
        self.assertEqual(self.first.past.degraded, "no record of gpu0: File exists")

    async def test_A30_a_folder_that_fails_between_two_starts(self) -> None:
        """What an earlier start could have is not taken for what the next one has."""
        await self.first.machine.make_room(self.entry)
        self.patch(Records, "prepare", lambda _: (_ for _ in ()).throw(OSError(30, "Read-only")))
        child, _ = await self.first.start(self.entry)
        self.addCleanup(self.end, self.first, child.pid)
        self.assertIsNone(child.output)
        self.assertFalse(self.first.machine.keeps(self.entry))
        self.assertEqual(self.first.past.degraded, "gpu0 cannot outlive the agent: Read-only")

    async def test_A30_what_has_no_record_is_not_left(self) -> None:
        """The disk was full between the start and the record."""
        self.patch(Records, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        child, _ = await self.first.start(self.entry)
        self.addCleanup(self.end, self.first, child.pid)
        self.assertIsNotNone(child.output)
        self.assertFalse(self.first.machine.keeps(self.entry))
        self.assertIn("no record of gpu0", self.first.past.degraded)

    async def test_A30_a_disk_that_is_well_again(self) -> None:
        """Nothing is degraded any more."""
        (self.state / "servers").touch()
        child, _ = await self.first.start(self.entry)
        child.kill()
        await self.first.ended
        await self.first.past.settle()
        (self.state / "servers").unlink()
        self.first.ended = Deferred()
        child, _ = await self.begin()
        self.assertTrue(self.first.machine.keeps(self.entry))
        self.assertEqual(self.first.past.degraded, "")
