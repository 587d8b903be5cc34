"""Memory as the kernel tells it, read from files of our own that look like the kernel's."""

import os
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.gateway.pressure import LOOK_EVERY, Pressure

MB = 2**20


class PressureTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.proc, self.root = Path(folder.name, "proc"), Path(folder.name, "cgroup")
        self.group = self.root / "system.slice" / "rolemesh-gateway.service"
        self.proc.mkdir()
        self.group.mkdir(parents=True)
        (self.proc / "cgroup").write_text("1:name=x:/\n0::/system.slice/rolemesh-gateway.service\n")
        self.resident(100)
        self.clock = Clock()

    def resident(self, megabytes: int) -> None:
        (self.proc / "status").write_text(f"Name:\tx\nVmRSS:\t{megabytes * 1024} kB\n")

    def holds(self, group: Path, used: int, droppable: int, most: int | None) -> None:
        (group / "memory.current").write_text(f"{used * MB}\n")
        (group / "memory.stat").write_text(f"anon 1\ninactive_file {droppable * MB}\n")
        (group / "memory.max").write_text("max\n" if most is None else f"{most * MB}\n")

    def pressure(self, most: int | None = None) -> Pressure:
        bound = most * MB if most else None
        pressure = Pressure(self.clock, bound, self.proc, self.root)
        pressure.startService()
        self.addCleanup(pressure.stopService)
        return pressure

    def refused(self, pressure: Pressure) -> Refusal | None:
        try:
            pressure.check()
        except Refusal as refusal:
            return refusal
        return None

    def test_L16_its_group_is_nearly_full(self) -> None:
        """From 80 % on new requests get 503 with the figures, and when to come again."""
        self.holds(self.group, 409, 0, 512)
        pressure = self.pressure()
        self.assertIsNone(self.refused(pressure))
        self.holds(self.group, 420, 0, 512)
        self.clock.advance(LOOK_EVERY)
        refusal = self.refused(pressure)
        assert refusal is not None
        self.assertEqual((refusal.status, refusal.code), (503, "role_unavailable"))
        self.assertIn("420 of 512 MiB used", refusal.message)
        self.assertTrue(refusal.should_retry())

    def test_L16_it_does_not_swing(self) -> None:
        """Once refused, some memory must have come back before the next is taken."""
        self.holds(self.group, 420, 0, 512)
        pressure = self.pressure()
        self.holds(self.group, 400, 0, 512)
        self.clock.advance(LOOK_EVERY)
        self.assertIsNotNone(self.refused(pressure))
        self.holds(self.group, 380, 0, 512)
        self.clock.advance(LOOK_EVERY)
        self.assertIsNone(self.refused(pressure))

    def test_L16_a_group_further_up(self) -> None:
        """The one that is nearest to its bound counts."""
        self.holds(self.group, 10, 0, None)
        self.holds(self.group.parent, 900, 0, 1000)
        self.assertIsNotNone(self.refused(self.pressure()))

    def test_L16_what_the_kernel_can_drop_does_not_count(self) -> None:
        """Files that were read fill a group, and leave when room is wanted."""
        self.holds(self.group, 500, 300, 512)
        self.assertIsNone(self.refused(self.pressure()))

    def test_L16_a_bound_of_its_own(self) -> None:
        """`memory_max` holds also where no group has a bound."""
        self.assertIsNone(self.refused(self.pressure(200)))
        self.resident(170)
        self.assertIsNotNone(self.refused(self.pressure(200)))

    def test_no_bound(self) -> None:
        """Without any nobody is refused, nor where nothing can be told."""
        self.assertIsNone(self.refused(self.pressure()))
        nowhere = Pressure(self.clock, 1, self.root / "no", self.root / "where")
        nowhere.look()
        self.assertIsNone(self.refused(nowhere))

    def test_this_very_process(self) -> None:
        """The real files of this kernel are understood."""
        pressure = Pressure(self.clock, 1)
        pressure.look()
        self.assertTrue(pressure.full, os.uname())
