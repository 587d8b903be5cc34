"""P4: retries stay few, whatever fails, and none of them is lost."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.budget import FLOOR, RetryBudget


class RetryBudgetTests(SynchronousTestCase):
    """How many may try again at one time."""

    def setUp(self) -> None:
        self.budget = RetryBudget()

    def entered(self, count: int) -> int:
        """How many of so many retries may go on at once."""
        return sum(self.budget.enter().called for _ in range(count))

    def test_P4_a_floor(self) -> None:
        """However few requests there are, some may be tried again."""
        self.assertEqual(self.entered(10), FLOOR)

    def test_P4_a_share_of_what_is_under_way(self) -> None:
        """Of a hundred requests twenty may be tried again at one time."""
        for _ in range(100):
            self.budget.begin()
        self.assertEqual(self.entered(100), 20)

    def test_P4_the_others_wait_their_turn(self) -> None:
        """Who waits goes on, in order, as others leave."""
        self.entered(FLOOR)
        first, second = self.budget.enter(), self.budget.enter()
        self.budget.leave()
        self.assertEqual([first.called, second.called], [True, False])
        self.budget.leave()
        self.assertTrue(second.called)

    def test_C1_who_leaves_takes_no_turn(self) -> None:
        """A client that goes away while it waits takes nobody's place."""
        self.entered(FLOOR)
        gone, next_one = self.budget.enter(), self.budget.enter()
        gone.addErrback(lambda _: None)
        gone.cancel()
        self.budget.leave()
        self.assertTrue(next_one.called)
