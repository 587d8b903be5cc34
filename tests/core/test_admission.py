"""The fair queue: keys take turns, then their sessions; nothing is lost, nobody starves."""

from collections import Counter
from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.admission import FairQueue

Item = tuple[str, str, int]

PLACES = st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz"))


def filled(*places: tuple[str, str]) -> FairQueue[Item]:
    queue: FairQueue[Item] = FairQueue()
    for number, (key, session) in enumerate(places):
        queue.push((key, session, number), key, session)
    return queue


def drained(queue: FairQueue[Item]) -> list[Item]:
    order = []
    while queue:
        item = next(iter(queue))
        queue.served(item)
        order.append(item)
    return order


class Machine(RuleBasedStateMachine):
    """Anybody comes, is served or leaves at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[Item] = FairQueue()
        self.waiting: list[Item] = []
        self.numbers = count()
        self.passed_over: Counter[str] = Counter()
        self.passed_sessions: Counter[tuple[str, str]] = Counter()

    @rule(place=PLACES)
    def come(self, place: tuple[str, str]) -> None:
        item = (*place, next(self.numbers))
        self.queue.push(item, *place)
        self.waiting.append(item)

    @precondition(lambda self: self.waiting)
    @rule()
    def serve(self) -> None:
        item = next(iter(self.queue))
        key, session, number = item
        mine = [each for each in self.waiting if each[:2] == (key, session)]
        assert number == mine[0][2], "within a session, first come first served"
        self.queue.served(item)
        self.waiting.remove(item)
        self._count(key, session)

    def _count(self, key: str, session: str) -> None:
        for other in {each[0] for each in self.waiting} - {key}:
            self.passed_over[other] += 1
        del self.passed_over[key]
        for place in {each[:2] for each in self.waiting if each[0] == key} - {(key, session)}:
            self.passed_sessions[place] += 1
        del self.passed_sessions[key, session]
        self._forget_those_gone()

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(self.waiting))
        self.queue.gone(item)
        self.waiting.remove(item)
        self._forget_those_gone()

    def _forget_those_gone(self) -> None:
        places = {each[:2] for each in self.waiting}
        keys = {key for key, _ in places}
        self.passed_over = Counter({k: n for k, n in self.passed_over.items() if k in keys})
        passed = {place: n for place, n in self.passed_sessions.items() if place in places}
        self.passed_sessions = Counter(passed)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert sorted(self.queue) == sorted(self.waiting)
        assert len(self.queue) == len(self.waiting)

    @invariant()
    def nobody_starves(self) -> None:
        """With three keys of three sessions, no more than the others come before one."""
        assert max(self.passed_over.values(), default=0) <= 2
        assert max(self.passed_sessions.values(), default=0) <= 2


class FairQueueTests(SynchronousTestCase):
    def test_a_fan_out_starves_nobody(self) -> None:
        """One call that comes behind forty of another key, or another session, is second."""
        for late in (("B", "x"), ("A", "y")):
            queue = filled(*[("A", "x")] * 40, late)
            self.assertEqual(drained(queue)[1][:2], late)

    def test_sessions_of_a_key_share_its_turn(self) -> None:
        """A key does not get more by having more sessions."""
        queue = filled(*[("A", str(n)) for n in range(10)], *[("B", "x")] * 3)
        keys = [key for key, _, _ in drained(queue)]
        self.assertEqual("".join(keys[:6]), "ABABAB")

    def test_a_turn_is_not_forgotten(self) -> None:
        """Who was served comes behind those who wait, and stays there for what it pushes next."""
        queue = filled(("A", "x"), ("A", "x"), ("B", "x"))
        queue.served(("A", "x", 0))
        queue.push(("A", "x", 3), "A", "x")
        self.assertEqual([key for key, _, _ in drained(queue)], ["B", "A", "A"])

    def test_leaving_costs_nobody_a_turn(self) -> None:
        """Who gives up waiting leaves the order of the others as it was."""
        queue = filled(("A", "x"), ("A", "x"), ("B", "x"))
        queue.gone(("A", "x", 0))
        self.assertEqual([number for _, _, number in queue], [1, 2])

    def test_out_of_turn(self) -> None:
        """One that is behind may be served first, when only it has a place to go."""
        queue = filled(("A", "x"), ("A", "x"), ("B", "x"))
        queue.served(("A", "x", 1))
        self.assertEqual([number for _, _, number in queue], [2, 0])
        self.assertNotIn(("A", "x", 1), queue)

    def test_nobody(self) -> None:
        """An empty queue is false, and what is not in it cannot leave it."""
        queue = filled()
        self.assertEqual((len(queue), list(queue)), (0, []))
        self.assertRaises(KeyError, queue.gone, ("A", "x", 0))

    @given(st.lists(PLACES, max_size=60))
    def test_iteration_is_the_order_of_service(self, places: list[tuple[str, str]]) -> None:
        """What is shown is what would happen: everything once, and in that order."""
        queue = filled(*places)
        shown = list(queue)
        self.assertEqual(drained(queue), shown)
        self.assertEqual(sorted(number for _, _, number in shown), list(range(len(places))))

    def test_whatever_happens_to_it(self) -> None:
        """It loses nothing, keeps sessions in order, and lets nobody be passed over twice by one
        other, whoever comes, is served or leaves."""
        run_state_machine_as_test(Machine)
