"""GPUs: the choice by name, the helper's keeper in memory, and the real helper over a fake NVML."""

import os
import shutil
import signal
import subprocess
import unittest
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rolemesh.config.node import GpuChoice
from rolemesh.core.report import GpuReport
from rolemesh.node import gpu
from rolemesh.node.gpu import DEADLINE, INTERVAL, PAUSE, Gpus, NoSuchGpu, choose
from rolemesh.node.process import Child
from tests.node.fakes import FakeProcess

SOURCE = Path(__file__).with_name("fake_nvml.c")
UUID = "GPU-00000000-0000-4000-8000-00000000000"
AWAY = "FAKE_NVML_AWAY"
H100 = GpuReport(uuid="GPU-a", name="NVIDIA H100 80GB HBM3", index=0)
ADA = GpuReport(uuid="GPU-b", name="NVIDIA GeForce RTX 4090", index=1)
TWIN = GpuReport(uuid="GPU-c", name="NVIDIA GeForce RTX 4090", index=2)


class ChooseTests(SynchronousTestCase):
    def assertChosen(self, expected: list[str], *names: str | int) -> None:
        self.assertEqual(choose(GpuChoice(names), (H100, ADA)), tuple(expected))

    def test_A18_by_index_uuid_or_part_of_the_name(self) -> None:
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
        self.assertEqual([card.memory_used for card in self.gpus.sample], [6])
        self.successResultOf(self.gpus.settled)

    def test_A16_a_helper_that_hangs_is_killed_and_replaced_a_minute_later(self) -> None:
        """Its readings are withdrawn with a reason, the GPU stays known, a new one comes later."""
        self.tell(5)
        self.clock.advance(INTERVAL + DEADLINE)
        self.assertIn(signal.SIGKILL, self.helper.signals)
        (card,) = self.gpus.sample
        self.assertEqual((card.memory_used, card.uuid), (None, "GPU-a"))
        self.assertEqual(card.reason, "no answer within 10 s")
        self.clock.advance(59.9)
        self.assertEqual(len(self.processes.children), 1)
        self.clock.advance(0.1)
        self.assertEqual(len(self.processes.children), 2)

    def test_A16_a_helper_that_tells_in_time_is_left_alone(self) -> None:
        """However long it has run, and also when a sample is a bit late."""
        for used in range(100):
            self.tell(used)
            self.clock.advance(INTERVAL + DEADLINE - 0.1)
        self.assertEqual((self.helper.signals, len(self.processes.children)), ([], 1))
        self.assertEqual(self.gpus.sample[0].memory_used, 99)

    def test_A16_a_late_word_of_a_killed_helper_is_not_heard(self) -> None:
        """Neither its samples nor its exit count against the next one."""
        first = self.helper
        self.clock.advance(INTERVAL + DEADLINE)
        self.clock.advance(PAUSE)
        self.tell(7)
        first.tell(b'{"error": "late"}\n')
        first.exit(None, 9)
        self.assertEqual([card.memory_used for card in self.gpus.sample], [7])
        self.assertEqual(self.helper.signals, [])

    def test_A16_a_helper_that_crashes_costs_the_readings_only(self) -> None:
        """An exit is a reason, and a pause."""
        self.tell(5)
        self.helper.exit(None, 11)
        self.assertEqual(self.gpus.sample[0].reason, "its helper ended with 11")
        self.clock.advance(PAUSE)
        self.assertEqual(len(self.processes.children), 2)

    def test_A15_a_gpu_that_a_new_helper_does_not_see_is_lost(self) -> None:
        """Also one that NVML leaves out, or cannot name any more; it stays known."""
        self.tell(5)
        for missing in (b'{"gpus": []}', b'{"gpus": [{"uuid": "", "index": 0, "lost": true}]}'):
            self.helper.tell(missing + b"\n")
            (card,) = self.gpus.sample
            self.assertEqual((card.uuid, card.lost, card.memory_used), ("GPU-a", True, None))
        self.tell(5)
        self.assertFalse(self.gpus.sample[0].lost)

    def test_A16_a_helper_that_fails_loses_no_gpu(self) -> None:
        """Without NVML nobody knows; servers go on."""
        self.tell(5)
        self.helper.tell(b'{"error": "Driver Not Loaded"}\n')
        self.assertFalse(self.gpus.sample[0].lost)

    def test_A39_a_helper_that_cannot_be_forked(self) -> None:
        """Is tried again a minute later; nobody waits for it until then."""
        spawn = self.processes.spawnProcess
        self.patch(self.processes, "spawnProcess", self.refuse)
        self.helper.exit(None, 11)
        self.clock.advance(PAUSE)
        self.successResultOf(self.gpus.settled)
        self.patch(self.processes, "spawnProcess", spawn)
        self.clock.advance(PAUSE)
        self.tell(5)
        self.assertEqual(self.gpus.sample[0].memory_used, 5)

    def refuse(self, *_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    def test_A17_a_machine_without_nvml_says_so_once(self) -> None:
        """However often a helper finds it out; again when it is something else."""
        with capturedLogs() as events:
            for problem in (*["Driver Not Loaded"] * 5, "Unknown Error"):
                self.helper.tell(b'{"error": "%s"}\n' % problem.encode())
                self.clock.advance(PAUSE)
        self.assertEqual([e["problem"] for e in events], ["Driver Not Loaded", "Unknown Error"])

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


def fake_nvml(name: str) -> dict[str, str]:
    """Compile the fake driver into a new folder; the environment in which it is found there."""
    folder = Path(name).absolute()
    folder.mkdir()
    flags = ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(["gcc", *flags, "-o", folder / "libnvidia-ml.so.1", SOURCE], check=True)
    return {"LD_LIBRARY_PATH": str(folder)}


@unittest.skipUnless(shutil.which("gcc"), "no gcc to compile the fake NVML with")
class RealHelperTests(TestCase):
    """The real nvidia-ml-py in the real helper, over a library compiled here."""

    timeout = 120

    def setUp(self) -> Any:
        self.library = fake_nvml(self.mktemp())
        self.transports: list[Any] = []
        return deferLater(reactor, 0)  # a helper that ends while the reactor starts confuses trial

    def spawnProcess(self, *details: Any, **more: Any) -> None:
        self.transports.append(reactor.spawnProcess(*details, **more))

    async def settled(self, folder: str | None = None, **variables: str) -> Gpus:
        library = {"LD_LIBRARY_PATH": folder} if folder else self.library
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

    async def test_A17_the_inventory_and_all_readings(self) -> None:
        """Watts, joules, ratios; what a card does not tell has its reason by name."""
        first, second = (await self.settled()).sample
        self.assertEqual((first.pci, first.driver), ("00000000:17:00.0", "570.86.15"))
        self.assertEqual((first.compute_capability, first.power_limit), ("9.0", 700.0))
        self.assertEqual((first.energy, first.ecc_errors), (5000.5, 3))
        self.assertEqual(first.throttled, ("power cap", "heat"))
        self.assertEqual((first.silent, second.throttled), ({}, ()))
        silent = ("power", "power_limit", "energy", "temperature", "ecc_errors")
        self.assertEqual(second.silent, dict.fromkeys(silent, "Not Supported"))

    async def test_who_holds_memory_is_named(self) -> None:
        """By name and size, so that one can say what is in the way."""
        first, second = (await self.settled(FAKE_NVML_PID=str(os.getpid()))).sample
        assert first.processes is not None
        (holder,) = first.processes
        self.assertEqual((holder.pid, holder.memory), (os.getpid(), 700 << 20))
        self.assertEqual(holder.name, Path("/proc/self/comm").read_text().strip())
        self.assertEqual(second.processes, ())

    async def test_an_xid_is_told(self) -> None:
        """The driver's error number is on the card from which it came."""
        self.patch(gpu, "INTERVAL", 0.05)
        gpus = await self.settled(FAKE_NVML_XID="79")
        await self.until(lambda: gpus.sample[0].xid == 79)
        self.assertIsNone(gpus.sample[1].xid)

    async def until(self, true: Callable[[], object]) -> None:
        while not true():
            await deferLater(reactor, 0.01)

    async def test_A15_a_gpu_is_lost_and_comes_back(self) -> None:
        """It keeps its name while it is lost, and everybody is told of both."""
        self.patch(gpu, "INTERVAL", 0.05)
        away = Path(self.mktemp())
        gpus = await self.settled(**{AWAY: str(away.absolute())})
        told: list[bool] = []
        gpus.on_sample.append(lambda: told.append(gpus.sample[0].lost))
        away.touch()
        await self.until(lambda: gpus.sample[0].lost)
        self.assertEqual((gpus.sample[0].uuid, gpus.sample[0].reason), (f"{UUID}0", "GPU is lost"))
        self.assertFalse(gpus.sample[1].lost)
        away.unlink()
        await self.until(lambda: not gpus.sample[0].lost)
        self.assertEqual(gpus.sample[0].memory_used, 1 << 30)
        self.assertIn(True, told)

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

    async def test_A16_a_call_that_hangs_costs_the_readings_only(self) -> None:
        """The helper is killed; who waits for the first sample is let go with the reason."""
        self.patch(gpu, "INTERVAL", 0.2)
        self.patch(gpu, "DEADLINE", 1.0)
        gpus = await self.settled(FAKE_NVML_HANG="1")
        with self.assertRaisesRegex(NoSuchGpu, "no answer within 1 s"):
            gpus.choose(GpuChoice(names=(0,)))
        await self.until(lambda: not any(transport.pipes for transport in self.transports))

    async def test_A17_without_a_driver_or_a_library_it_goes_on(self) -> None:
        """No driver, or no NVML at all, is a reason and no crash."""
        for gpus, reason in (
            (await self.settled(FAKE_NVML_INIT="9"), "Driver Not Loaded"),
            (await self.settled(folder="/nowhere"), "NVML Shared Library Not Found"),
        ):
            with self.assertRaisesRegex(NoSuchGpu, reason):
                gpus.choose(GpuChoice(all=True))
