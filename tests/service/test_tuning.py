"""The promises of `rolemesh.service.tuning`: row L8 among them."""

import subprocess
import sys
import time

from twisted.internet.epollreactor import EPollReactor
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.service.tuning import keep_steady
from tests.service.probe import ROOT


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
from rolemesh.service.tuning import collect_less
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
