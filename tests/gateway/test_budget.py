"""P4: retries stay few, whatever fails, and none of them is lost."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.model import BackendId
from rolemesh.gateway.budget import DOUBTED, FLOOR, LATELY, SAVED, SHARE, RetryBudget, Turn

BAD, GOOD = BackendId("box1", "gpu0"), BackendId("box2", "gpu0")


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


class SavingTests(SynchronousTestCase):
    """How many may try again in all, where backends only fail."""

    def setUp(self) -> None:
        self.budget, self.now = RetryBudget(), 0.0

    def fails(self, id: BackendId, times: int = DOUBTED) -> None:
        for _ in range(times):
            self.budget.failed(id, self.now)

    def spent(self) -> int:
        """How many retries at the bad one are to be had now."""
        return sum(self.budget.spend(BAD, self.now) for _ in range(100))

    def test_P4_what_answers_costs_nothing(self) -> None:
        """No retry at a backend that has not only failed lately is ever refused."""
        self.fails(BAD)
        self.fails(GOOD, DOUBTED - 1)
        self.spent()
        self.assertTrue(all(self.budget.spend(GOOD, self.now) for _ in range(1000)))
        self.assertEqual(self.budget.hopeless(self.now), {BAD})

    def test_P4_what_fails_costs_what_was_saved(self) -> None:
        """There are ten such retries, and then one for every five requests; never more at once."""
        self.fails(BAD)
        self.assertEqual((self.budget.hopeless(self.now), self.spent()), (frozenset(), int(SAVED)))
        for _ in range(22):
            self.budget.begin()
        self.assertEqual(self.spent(), int(22 * SHARE))
        for _ in range(1000):
            self.budget.begin()
        self.assertEqual(self.spent(), int(SAVED))

    def test_P4_an_answer_is_new_hope(self) -> None:
        """A backend that answers once is no longer doubted."""
        self.fails(BAD)
        self.spent()
        self.budget.answered(BAD)
        self.assertEqual((self.budget.hopeless(self.now), self.spent()), (frozenset(), 100))

    def test_P4_a_while_is_new_hope(self) -> None:
        """Nor is one that has not failed for half a minute; it may be another process by now."""
        self.fails(BAD)
        self.spent()
        self.now += LATELY
        self.assertEqual((self.budget.hopeless(self.now), self.spent()), (frozenset(), 100))
        self.fails(BAD, DOUBTED - 1)
        self.assertEqual(self.spent(), 100)
        self.fails(BAD, 1)
        self.assertEqual(self.spent(), 0)
