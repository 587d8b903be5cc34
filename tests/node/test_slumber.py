"""A machine that sleeps."""

import sys
import time

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node.slumber import Slumber, slept_until_now
from tests.real.harness import need


class SlumberTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.slept = 0.0
        self.woken = 0
        self.slumber = Slumber(self._woken, lambda: self.slept)

    def _woken(self) -> None:
        self.woken += 1

    def test_A34_a_long_sleep_is_noticed_once(self) -> None:
        """And a nap is none."""
        for slept, woken in ((30, 0), (61, 1), (61, 1), (3600, 2)):
            self.slept = slept
            self.slumber.look()
            self.assertEqual(self.woken, woken)

    def test_A34_what_the_machine_says(self) -> None:
        """The time since the boot less the time awake: never less than nothing, and steady."""
        first = slept_until_now()
        self.assertGreaterEqual(first, -0.1)
        self.assertLess(abs(slept_until_now() - first), 0.1)
        need(sys.platform == "linux", "Linux")
        clocks = {time.CLOCK_BOOTTIME: 5000.0, time.CLOCK_MONOTONIC: 1400.0}
        self.patch(time, "clock_gettime", clocks.__getitem__)
        self.assertEqual(slept_until_now(), 3600)
