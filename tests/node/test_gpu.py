"""GPUs: the choice by name, the helper's keeper in memory, and the real helper over a fake NVML."""

import os
import shutil
import signal
import subprocess
import unittest
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rolemesh.config.node import GpuChoice
from rolemesh.core.report import GpuReport
from rolemesh.node.gpu import DEADLINE, INTERVAL, PAUSE, Gpus, NoSuchGpu, choose
from rolemesh.node.process import Child
from tests.node.fakes import FakeProcess

SOURCE = Path(__file__).with_name("fake_nvml.c")
UUID = "GPU-00000000-0000-4000-8000-00000000000"
H100 = GpuReport(uuid="GPU-a", name="NVIDIA H100 80GB HBM3", index=0)
ADA = GpuReport(uuid="GPU-b", name="NVIDIA GeForce RTX 4090", index=1)
TWIN = GpuReport(uuid="GPU-c", name="NVIDIA GeForce RTX 4090", index=2)


class ChooseTests(SynchronousTestCase):
    def assertChosen(self, expected: list[str], *names: str | int) -> None:
        self.assertEqual(choose(GpuChoice(names), (H100, ADA)), tuple(expected))

    def test_by_index_uuid_or_part_of_the_name(self) -> None:
        """Each way leads to the UUID, in the order of the file."""
        self.assertChosen(["GPU-b"], 1)
        self.assertChosen(["GPU-b", "GPU-a"], "4090", "h100")
        self.assertChosen(["GPU-b"], 4090)
        self.assertChosen(["GPU-anything"], "GPU-anything")

    def test_none_and_all(self) -> None:
        """No choice is no GPU, `all` is every one."""
        self.assertChosen([])
        self.assertEqual(choose(GpuChoice(all=True), (H100, ADA)), ("GPU-a", "GPU-b"))

    def assertRefused(self, message: str, choice: GpuChoice, *gpus: GpuReport) -> None:
        with self.assertRaises(NoSuchGpu) as caught:
            choose(choice, gpus, "Driver Not Loaded")
        self.assertEqual(str(caught.exception), message)

    def test_a_gpu_that_is_not_here_is_an_error_with_what_is(self) -> None:
        """The message names the GPUs of this machine, or says why none is known."""
        self.assertRefused(
            "no GPU 3: here are 0 (NVIDIA H100 80GB HBM3)", GpuChoice(names=(3,)), H100
        )
        unknown = "NVML knows none here (Driver Not Loaded)"
        self.assertRefused(f"no GPU 'a100': {unknown}", GpuChoice(names=("a100",)))
        self.assertRefused(f"all GPUs are wanted, {unknown}", GpuChoice(all=True))

    def test_a_name_that_fits_two_is_an_error(self) -> None:
        """Of twins the file has to say which."""
        message = "'4090' fits the GPUs 1, 2; say which by index or UUID"
        self.assertRefused(message, GpuChoice(names=("4090",)), H100, ADA, TWIN)


class FakeProcesses:
    """Notes the children that were asked for."""

    def __init__(self) -> None:
        self.children: list[FakeProcess] = []

    def spawnProcess(self, child: Child, *_: object, **__: object) -> None:
        self.children.append(FakeProcess(child))


class HelperInMemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.processes = Clock(), FakeProcesses()
        self.gpus = Gpus(self.clock, self.processes, {})  # type: ignore[arg-type]
        self.gpus.startService()

    @property
    def helper(self) -> FakeProcess:
        return self.processes.children[-1]

    def tell(self, used: int) -> None:
        gpu = f'{{"uuid": "GPU-a", "index": 0, "name": "H", "memory_used": {used}}}'
        self.helper.tell(f'{{"gpus": [{gpu}]}}\n'.encode())

    def test_A16_the_last_sample_stands_and_nobody_waits(self) -> None:
        """A sample is there to be read at any time, and the first one settles the matter."""
        self.assertNoResult(self.gpus.settled)
        self.tell(5)
        self.tell(6)
        self.assertEqual([gpu.memory_used for gpu in self.gpus.sample], [6])
        self.successResultOf(self.gpus.settled)

    def test_A16_a_helper_that_hangs_is_killed_and_replaced_a_minute_later(self) -> None:
        """Its readings are withdrawn with a reason, the GPU stays known, a new one comes later."""
        self.tell(5)
        self.clock.advance(INTERVAL + DEADLINE)
        self.assertIn(signal.SIGKILL, self.helper.signals)
        (gpu,) = self.gpus.sample
        self.assertEqual((gpu.memory_used, gpu.uuid), (None, "GPU-a"))
        self.assertEqual(gpu.reason, "no answer within 10 s")
        self.clock.advance(PAUSE - 0.1)
        self.assertEqual(len(self.processes.children), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.processes.children), 2)

    def test_A16_a_late_word_of_a_killed_helper_is_not_heard(self) -> None:
        """Neither its samples nor its exit count against the next one."""
        first = self.helper
        self.clock.advance(INTERVAL + DEADLINE)
        self.clock.advance(PAUSE)
        self.tell(7)
        first.tell(b'{"error": "late"}\n')
        first.exit(None, 9)
        self.assertEqual([gpu.memory_used for gpu in self.gpus.sample], [7])
        self.assertEqual(self.helper.signals, [])

    def test_A16_a_helper_that_crashes_costs_the_readings_only(self) -> None:
        """An exit is a reason, and a pause."""
        self.tell(5)
        self.helper.exit(None, 11)
        self.assertEqual(self.gpus.sample[0].reason, "its helper ended with 11")
        self.clock.advance(PAUSE)
        self.assertEqual(len(self.processes.children), 2)

    def test_nonsense_of_a_helper_is_no_sample(self) -> None:
        """A line that is no sample ends the helper."""
        self.helper.tell(b"garbage\n")
        self.assertIn(signal.SIGKILL, self.helper.signals)
        self.successResultOf(self.gpus.settled)

    def test_a_stop_leaves_no_helper_and_no_timer(self) -> None:
        """Nothing goes on after the service."""
        self.gpus.stopService()
        self.assertIn(signal.SIGKILL, self.helper.signals)
        self.assertEqual(self.clock.getDelayedCalls(), [])


@unittest.skipUnless(shutil.which("gcc"), "no gcc to compile the fake NVML with")
class RealHelperTests(TestCase):
    """The real nvidia-ml-py in the real helper, over a library compiled here."""

    timeout = 30

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
        subprocess.run(["gcc", *flags, "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True)
        self.folder = str(folder.absolute())
        self.transports: list[Any] = []

    def spawnProcess(self, *details: Any, **more: Any) -> None:
        self.transports.append(reactor.spawnProcess(*details, **more))

    async def settled(self, folder: str | None = None, **variables: str) -> Gpus:
        library = {"LD_LIBRARY_PATH": folder or self.folder}
        gpus = Gpus(reactor, self, {**os.environ, **library, **variables})  # type: ignore[arg-type]
        gpus.startService()
        self.addCleanup(self.stop, gpus)
        await gpus.settled
        return gpus

    async def stop(self, gpus: Gpus) -> None:
        gpus.stopService()
        while any(transport.pipes for transport in self.transports):
            await deferLater(reactor, 0.01)

    async def test_two_gpus_are_read(self) -> None:
        """Inventory and readings arrive in our units; what a GPU does not tell is None."""
        first, second = (await self.settled()).sample
        self.assertEqual((first.uuid, first.name), (f"{UUID}0", "NVIDIA H100 80GB HBM3"))
        self.assertEqual((first.memory_total, first.memory_used), (80 << 30, 1 << 30))
        self.assertEqual((first.utilization, first.power, first.temperature), (0.37, 210.5, 51.0))
        self.assertEqual((second.index, second.power, second.temperature), (1, None, None))

    async def test_A15_a_lost_gpu_has_a_reason_and_the_other_goes_on(self) -> None:
        """One GPU's loss costs its own readings."""
        first, second = (await self.settled(FAKE_NVML_LOST="0")).sample
        self.assertEqual((first.reason, first.memory_used), ("GPU is lost", None))
        self.assertEqual(second.memory_used, 1 << 30)

    async def test_A16_a_crash_in_the_driver_is_the_helpers(self) -> None:
        """SIGSEGV within NVML leaves the agent with a reason."""
        gpus = await self.settled(FAKE_NVML_CRASH="1")
        self.assertEqual(gpus.sample, ())
        with self.assertRaisesRegex(NoSuchGpu, "its helper ended with 11"):
            gpus.choose(GpuChoice(names=(0,)))

    async def test_A17_without_a_driver_or_a_library_it_goes_on(self) -> None:
        """No driver, or no NVML at all, is a reason and no crash."""
        for gpus, reason in (
            (await self.settled(FAKE_NVML_INIT="9"), "Driver Not Loaded"),
            (await self.settled(folder="/nowhere"), "NVML Shared Library Not Found"),
        ):
            with self.assertRaisesRegex(NoSuchGpu, reason):
                gpus.choose(GpuChoice(all=True))
