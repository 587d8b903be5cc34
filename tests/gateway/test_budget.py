"""P4: retries stay few, whatever fails, and none of them is lost."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.budget import FLOOR, RetryBudget, Turn


class RetryBudgetTests(SynchronousTestCase):
    """How many may try again at one time."""

    def setUp(self) -> None:
        self.budget = RetryBudget()

    def entered(self, count: int) -> list[Turn]:
        """The turns that are had at once of so many asked for."""
        asked = [self.budget.enter() for _ in range(count)]
        return [self.successResultOf(each) for each in asked if each.called]

    def test_P4_a_floor(self) -> None:
        """However few requests there are, some may be tried again."""
        self.assertEqual(len(self.entered(10)), FLOOR)

    def test_P4_a_share_of_what_is_under_way(self) -> None:
        """Of a hundred requests twenty may be tried again at one time."""
        for _ in range(100):
            self.budget.begin()
        self.assertEqual(len(self.entered(100)), 20)

    def test_P4_the_others_wait_their_turn(self) -> None:
        """Who waits goes on, in order, as others leave."""
        one, other, _ = self.entered(FLOOR)
        first, second = self.budget.enter(), self.budget.enter()
        one.leave()
        self.assertEqual([first.called, second.called], [True, False])
        other.leave()
        self.assertTrue(second.called)

    def test_P4_a_turn_is_left_once(self) -> None:
        """Leaving twice lets one in, not two."""
        one, *_ = self.entered(FLOOR)
        waiting = [self.budget.enter(), self.budget.enter()]
        one.leave()
        one.leave()
        self.assertEqual([each.called for each in waiting], [True, False])

    def test_C1_who_leaves_takes_no_turn(self) -> None:
        """A client that goes away while it waits takes nobody's place."""
        one, *_ = self.entered(FLOOR)
        gone, next_one = self.budget.enter(), self.budget.enter()
        gone.addErrback(lambda _: None)
        gone.cancel()
        one.leave()
        self.assertTrue(next_one.called)
