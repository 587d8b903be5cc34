"""What stands in the way of a start on this machine, with real files and a fake NVML's samples."""

import contextlib
import errno
import importlib.util
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from rolemesh.config.node import GpuChoice, Run
from rolemesh.core.endings import Reason
from rolemesh.core.fit import GB
from rolemesh.core.report import GpuReport
from rolemesh.node import host, past, room, survivors
from rolemesh.node.aside import Aside
from rolemesh.node.gpu import Gpus
from rolemesh.node.identity import Records
from rolemesh.node.logs import LineCutter
from rolemesh.node.machine import Machine
from rolemesh.node.means import CannotStart, Unkillable
from rolemesh.node.process import Child, Exit
from tests.node.test_process import until
from tests.node.test_survivors import alive
from tests.real.harness import free_port, need

WRAPPER = (
    "import os, time; os.fork() and time.sleep(60); "
    "os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
)
CARD = GpuReport(uuid="GPU-a", name="H100", index=0, memory_total=80 * GB, memory_used=0)


class MachineTestCase(TestCase):
    timeout = 120

    def setUp(self) -> None:
        need(importlib.util.find_spec("gguf") is not None, "the extra rolemesh[demo]")
        from rolemesh.demo.model import write_tiny_model

        state = Path(self.mktemp())
        state.mkdir()
        file = write_tiny_model(self.mktemp())
        self.run_entry = Run("gpu0", "tiny", file, GpuChoice((0,)), slots=2, context=512)
        records = Records(state / "servers")
        clock: Any = reactor
        before = past.Past(clock, Aside(clock), records, f"me-{os.getpid()}")
        self.gpus = Gpus(clock, clock, {})
        self.gpus.sample = (CARD,)
        first = free_port()
        self.machine = Machine(
            clock, clock, range(first, first + 1), self.gpus, {}, before, Aside(clock)
        )

    async def refusal(self, run: Run) -> CannotStart:
        try:
            await self.machine.make_room(run)
        except CannotStart as refusal:
            return refusal
        raise AssertionError("it was not refused")


class FitTests(MachineTestCase):
    async def test_what_fits_has_no_note(self) -> None:
        """And is started."""
        await self.machine.make_room(self.run_entry)
        self.assertEqual(self.machine.note(self.run_entry), "")

    async def test_what_may_not_fit_is_warned_of_and_started(self) -> None:
        """The note is for the log and for the report."""
        greedy = evolve(self.run_entry, context=2**30)
        await self.machine.make_room(greedy)
        note = self.machine.note(greedy)
        self.assertTrue(note.startswith("GPU 0: 2 × 1048576k needs 0.0 + "), note)  # noqa: RUF001
        self.assertIn("fits: ", note)

    async def test_what_can_never_fit_is_refused(self) -> None:
        """A card with less memory than the file is long."""
        self.gpus.sample = (GpuReport(uuid="GPU-a", index=0, memory_total=4096, memory_used=0),)
        refusal = await self.refusal(self.run_entry)
        self.assertIs(refusal.ending.reason, Reason.GPU_MEMORY)
        self.assertIn("the weights alone are more than that has", str(refusal))

    async def test_A37_a_missing_file_is_told_by_its_name(self) -> None:
        """Not by its path."""
        refusal = await self.refusal(evolve(self.run_entry, file=Path("/nowhere/m.gguf")))
        self.assertEqual(str(refusal.ending), "model_missing: no file m.gguf")

    async def test_an_entry_without_a_gpu_key_is_not_estimated_beside_gpus(self) -> None:
        """Which of them it takes is the machine's own setting."""
        anywhere = evolve(self.run_entry, gpu=GpuChoice(), context=2**40)
        await self.machine.make_room(anywhere)
        self.assertEqual(self.machine.note(anywhere), "")


class SignsTests(MachineTestCase):
    async def test_A6_A8_A9_what_shows_that_a_server_works(self) -> None:
        """Its own process and its own GPUs: bytes read, memory, the most that one of them works."""
        twin = replace(CARD, uuid="GPU-b", index=1, memory_used=2 * GB, utilization=0.25)
        stranger = replace(CARD, uuid="GPU-c", index=2, memory_used=9 * GB, utilization=1.0)
        self.gpus.sample = (CARD, twin, stranger)
        both = evolve(self.run_entry, gpu=GpuChoice((0, 1)))
        await self.machine.make_room(both)
        seen = self.machine.signs(both, os.getpid())
        self.assertGreater(min(seen.read, seen.resident, seen.cpu), 0)
        self.assertEqual((seen.gpu_memory, seen.utilization), (2 * GB, 0.25))
        self.gpus.sample = (CARD, replace(twin, utilization=None))
        self.assertIsNone(self.machine.signs(both, os.getpid()).utilization)

    async def test_A10_the_kernels_kills_are_the_machines(self) -> None:
        """A server whose end is looked into sees what the kernel counts."""
        self.patch(host, "kernel_kills", lambda: 3)
        self.assertEqual(self.machine.kernel_kills(), 3)


class DiskTests(MachineTestCase):
    async def test_A30_a_disk_of_models_that_hangs_makes_no_estimate_and_stops_no_start(
        self,
    ) -> None:
        """After two seconds the server is started, and so is its neighbour."""
        release = threading.Event()
        self.addCleanup(release.set)
        self.patch(room, "read_weights", lambda _: release.wait())
        self.patch(room, "DISK", 0.05)
        await self.machine.make_room(self.run_entry)
        await self.machine.make_room(evolve(self.run_entry, id="other"))

    async def test_A30_a_state_folder_that_hangs_stops_no_start(self) -> None:
        """Nobody can tell what an earlier start left; that is said, and it goes on."""
        release = threading.Event()
        self.addCleanup(release.set)
        self.patch(Records, "read", lambda _: release.wait())
        self.patch(past, "CLEARING", 0.05)
        await self.machine.make_room(self.run_entry)


class GpuTests(MachineTestCase):
    async def test_A15_nothing_is_started_on_a_lost_gpu(self) -> None:
        """The reason names the card."""
        self.gpus.sample = (GpuReport("GPU-a", "H100", 0, lost=True, reason="GPU is lost"),)
        refusal = await self.refusal(self.run_entry)
        self.assertEqual(str(refusal.ending), "gpu_lost: GPU 0 (H100): GPU is lost")
        self.gpus.sample = (CARD,)
        await self.machine.make_room(self.run_entry)
        self.assertEqual(self.machine.lost_gpu(self.run_entry), "")

    async def test_A13_nothing_is_started_on_the_gpu_of_what_cannot_be_ended(self) -> None:
        """Neither the entry itself, nor its neighbour on the same card; one on another is."""
        await self.machine.make_room(self.run_entry)
        command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
        stuck = subprocess.Popen(command, stdin=subprocess.PIPE)
        self.addCleanup(stuck.communicate)
        door = self.machine.open_door(self.run_entry)
        await self.machine.record(self.run_entry, door, stuck.pid)
        self.patch(survivors, "kill", lambda _: None)
        self.patch(survivors, "PATIENCE", 0.05)
        refusal = await self.refusal(self.run_entry)
        self.assertIsInstance(refusal, Unkillable)
        self.assertIn(f"process {stuck.pid}", str(refusal))
        neighbour = await self.refusal(evolve(self.run_entry, id="other"))
        self.assertIn("gpu0, on the same GPU, left a process that outlives SIGKILL", str(neighbour))
        await self.machine.make_room(evolve(self.run_entry, id="third", gpu=GpuChoice(none=True)))


class WrapperTests(MachineTestCase):
    async def test_A14_what_a_wrapper_forked_ends_with_it(self) -> None:
        """Also in a session of its own, to which neither its group nor its parent leads."""
        wrapper = (sys.executable, "-c", WRAPPER)
        run = evolve(self.run_entry, gpu=GpuChoice(none=True), llama_server=wrapper)
        await self.machine.make_room(run)
        lines: list[bytes] = []
        ended: Deferred[Exit] = Deferred()
        child = Child(LineCutter(lines.extend), LineCutter(lambda _: None), ended.callback)
        self.machine.run_server(run, self.machine.open_door(run), child)
        await until(lambda: lines)
        self.addCleanup(self.end, int(lines[0]))
        child.kill()
        await ended
        self.assertTrue(alive(int(lines[0])))
        self.machine.clean_up(run)
        await until(lambda: not alive(int(lines[0])))

    def end(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class BindingTests(MachineTestCase):
    async def test_A18_a_server_sees_its_card_whatever_its_index(self) -> None:
        """By UUID, as the file or NVML gives it, and no other card."""
        other = replace(CARD, uuid="GPU-b")
        self.gpus.sample = (other, replace(CARD, index=1))
        says = (sys.executable, "-c", "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])")
        for name in (1, "GPU-a"):
            run = evolve(self.run_entry, gpu=GpuChoice((name,)), llama_server=says)
            await self.machine.make_room(run)
            lines: list[bytes] = []
            ended: Deferred[Exit] = Deferred()
            cutter = LineCutter(lines.extend)
            door = self.machine.open_door(run)
            self.machine.run_server(run, door, Child(cutter, cutter, ended.callback))
            await ended
            self.assertEqual(lines, [b"GPU-a"])


class NoProcesses:
    """A machine that has room for no other process."""

    def spawnProcess(self, *_: object, **__: object) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")


class ForkTests(MachineTestCase):
    async def test_A39_a_fork_that_is_refused_is_a_start_that_failed(self) -> None:
        """By the error's name; the agent lives, and its port is tried again."""
        self.patch(self.machine, "_processes", NoProcesses())
        door = self.machine.open_door(self.run_entry)
        cutter = LineCutter(lambda _: None)
        with self.assertRaises(CannotStart) as refused:
            self.machine.run_server(self.run_entry, door, Child(cutter, cutter, lambda _: None))
        self.assertEqual(str(refused.exception.ending), "exec_failed: EAGAIN")
        self.assertEqual(self.machine.open_door(self.run_entry).port, door.port)
