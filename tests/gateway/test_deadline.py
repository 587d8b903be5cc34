"""Tests for rolemesh.gateway.deadline."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.deadline import Deadline


class DeadlineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.deadline = Deadline(self.clock)
        self.done: list[str] = []

    def due(self, seconds: float, name: str) -> None:
        self.deadline.set(seconds, lambda: self.done.append(name))

    def test_acts_once_at_its_moment(self) -> None:
        """Nothing before the moment, the action at it, and nothing after."""
        self.due(12.0, "a")
        self.clock.pump([1.0] * 11)
        self.assertEqual([], self.done)
        self.clock.pump([1.0] * 30)
        self.assertEqual(["a"], self.done)

    def test_the_last_one_set_counts(self) -> None:
        """A later or an earlier moment takes the place of the one before."""
        self.due(3.0, "a")
        self.due(9.0, "b")
        self.clock.advance(3.0)
        self.due(0.5, "c")
        self.clock.advance(0.5)
        self.clock.advance(60.0)
        self.assertEqual(["c"], self.done)

    def test_cleared(self) -> None:
        """Nothing happens after clear, and a new moment can be set."""
        self.due(3.0, "a")
        self.deadline.clear()
        self.clock.advance(3.0)
        self.due(3.0, "b")
        self.clock.advance(3.0)
        self.assertEqual(["b"], self.done)

    def test_stopped(self) -> None:
        """Nothing is left with the clock."""
        self.due(3.0, "a")
        self.deadline.stop()
        self.assertEqual([], self.clock.getDelayedCalls())
