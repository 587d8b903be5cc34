"""Whether there is room, and a wait while somebody else holds it: on a Clock."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import evolve
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import GpuChoice, Run
from rolemesh.core.fit import GB
from rolemesh.core.gguf import Header
from rolemesh.core.report import GpuProcess, GpuReport
from rolemesh.node import room
from rolemesh.node.estimate import Weights
from rolemesh.node.gpu import Gpus
from rolemesh.node.means import CannotStart
from rolemesh.node.room import Room
from tests.doubles.weights import gguf

OLLAMA = GpuProcess("ollama", 99, 20 * GB)
HELD = GpuReport("GPU-a", "RTX", 0, memory_total=24 * GB, memory_used=20 * GB, processes=(OLLAMA,))
FREE = replace(HELD, memory_used=0, processes=())


class AtOnce:
    """Does on the spot what is to be done aside."""

    def do(self, job: Callable[..., Any], *arguments: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        done.callback(job(*arguments))
        return done


class RoomTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.size = Clock(), 10 * GB
        processes: Any = None
        aside: Any = AtOnce()
        self.gpus = Gpus(self.clock, processes, {})
        self.room = Room(self.clock, self.gpus, aside)
        header = Header("llama", layers=8, kv_heads=(4,) * 8, key_length=128, value_length=128)
        self.patch(room, "read_weights", lambda _: Weights(header, self.size))
        self.file = Path(self.mktemp())
        self.file.write_bytes(gguf())
        self.entry = Run("gpu0", "m", self.file, GpuChoice((0,)), slots=1, context=1024)

    def find(self, sample: GpuReport) -> "Deferred[None]":
        self.gpus.sample = (sample,)
        return Deferred.fromCoroutine(self.room.find(self.entry, ["GPU-a"], None))

    def test_A37_a_download_under_way_is_waited_for(self) -> None:
        """It is refused with how much is there, each time anew, until it is whole."""
        whole = gguf()
        for there in (len(whole) - 100, len(whole) - 50):
            self.file.write_bytes(whole[:there])
            refusal = self.failureResultOf(self.find(FREE), CannotStart).value
            told = f"{self.file.name} is not whole: has {there} of {len(whole)} bytes"
            self.assertEqual(str(refusal.ending), f"model_broken: {told}")
        self.file.write_bytes(whole)
        self.successResultOf(self.find(FREE))

    def test_A37_a_part_that_is_missing_is_named(self) -> None:
        """And not the first one, which is there."""
        first = self.file.with_name("m-00001-of-00002.gguf")
        first.write_bytes(gguf())
        self.entry = evolve(self.entry, file=first)
        refusal = self.failureResultOf(self.find(FREE), CannotStart).value
        self.assertEqual(str(refusal.ending), "model_missing: no file m-00002-of-00002.gguf")

    def test_A38_it_is_started_as_soon_as_the_memory_is_free(self) -> None:
        """Another program's end is waited for."""
        found = self.find(HELD)
        self.clock.pump([1] * 10)
        self.assertNoResult(found)
        self.gpus.sample = (FREE,)
        self.clock.advance(1)
        self.successResultOf(found)
        self.assertEqual(self.room.notes["gpu0"], "")

    def test_A38_after_thirty_seconds_it_is_started_all_the_same(self) -> None:
        """With a warning that names who holds it."""
        with capturedLogs() as events:
            found = self.find(HELD)
            self.clock.pump([1] * 29)
            self.assertNoResult(found)
            self.clock.advance(1)
            self.successResultOf(found)
        self.assertIn("20.0 GB held by ollama", self.room.notes["gpu0"])
        self.assertEqual([event["log_level"].name for event in events], ["info", "warn"])

    def test_A38_who_was_waited_for_in_vain_is_not_waited_for_again(self) -> None:
        """A crash does not cost thirty seconds each time; when more is held, it may."""
        self.find(HELD)
        self.clock.pump([1] * 30)
        self.successResultOf(self.find(HELD))
        self.assertNoResult(self.find(replace(HELD, memory_used=22 * GB)))
        self.clock.pump([1] * 30)

    def test_A38_what_would_not_fit_alone_is_not_waited_for(self) -> None:
        """Nobody's end would help."""
        self.size = 23 * GB + GB * 3 // 4
        self.successResultOf(self.find(HELD))

    def test_A36_two_entries_may_share_a_gpu_while_both_fit(self) -> None:
        """What the first one holds is counted, and named, when the second one starts."""
        first = GpuProcess("llama-server", 7, 12 * GB)
        used = replace(HELD, memory_used=12 * GB, processes=(first,))
        self.successResultOf(self.find(used))
        self.assertEqual(self.room.notes["gpu0"], "")
        self.size = 14 * GB
        self.find(used)
        self.clock.pump([1] * 30)
        self.assertIn("12.0 GB held by llama-server", self.room.notes["gpu0"])
