import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import TestCase

from rolemesh import lag
from rolemesh.lag import BEAT, SELDOM, LagWatch


class LagTests(TestCase):
    def setUp(self) -> None:
        self.logged = self.enterContext(capturedLogs())

    @property
    def events(self) -> list[LogEvent]:
        return [each for each in self.logged if each["log_namespace"] == "rolemesh.lag.LagWatch"]

    async def test_L17_who_held_the_reactor_up_is_logged(self) -> None:
        """A function that blocks for a second is named in one line."""
        self.patch(lag, "SELDOM", 0.0)  # what else holds a busy machine up has lines of its own
        watch = LagWatch(reactor)
        watch.startService()
        self.addCleanup(watch.stopService)
        await later(2 * BEAT)
        self.sleeps_on_the_reactor()
        await later(2 * BEAT)
        [event] = [each for each in self.events if "sleeps_on" in each["rolemesh.lag.stack"]]
        self.assertGreater(event["rolemesh.lag.seconds"], 0.1)
        self.assertGreater(watch.worst, 0.1)

    def sleeps_on_the_reactor(self) -> None:
        time.sleep(1.0)

    def test_L17_lines_are_few(self) -> None:
        """Of many hold-ups one line in ten seconds tells, which counts the others."""
        clock = Clock()
        watch = LagWatch(clock)
        watch.startService()
        self.addCleanup(watch.stopService)
        for _ in range(5):
            clock.advance(1.0)
        self.assertEqual(len(self.events), 1)
        clock.advance(SELDOM)
        self.assertEqual([event["untold"] for event in self.events], [0, 4])

    def test_a_beat_in_time_is_no_line(self) -> None:
        """A reactor that is merely busy has nothing to explain."""
        clock = Clock()
        watch = LagWatch(clock)
        watch.startService()
        self.addCleanup(watch.stopService)
        clock.pump([BEAT] * 100)
        self.assertEqual((self.events, watch.worst), ([], 0.0))


def later(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)
