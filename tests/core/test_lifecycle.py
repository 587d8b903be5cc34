"""The life of a llama-server: every row of the table, and what must hold for all of them."""

from itertools import product
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.lifecycle import (
    IGNORED,
    MEANINGS,
    MOVES,
    Action,
    Event,
    ImpossibleEvent,
    Move,
    markdown,
    step,
)
from rolemesh.core.model import BackendState as State

DOCS = Path(__file__).parents[2] / "docs" / "NODE_AGENT.md"
WITH_PROCESS = {
    State.STARTING,
    State.LOADING,
    State.READY,
    State.SUSPECT,
    State.REPLACING,
    State.STOPPING,
    State.UNKILLABLE,
}
UNKILLABLE, GPU_LOST = State.UNKILLABLE, State.GPU_LOST


class TableTests(SynchronousTestCase):
    def test_each_row_is_the_move_that_step_makes(self) -> None:
        """`step` answers every row of the table with that row."""
        for (state, event), move in MOVES.items():
            self.assertEqual(step(state, event), move)

    def test_ignored_events_change_nothing(self) -> None:
        """An ignored event leaves the state and orders nothing."""
        for state, event in IGNORED:
            self.assertEqual(step(state, event), Move(state))

    def test_no_pair_is_both_a_move_and_ignored(self) -> None:
        """The table and the ignored pairs do not overlap."""
        self.assertEqual(IGNORED & MOVES.keys(), set())

    def test_any_other_pair_is_impossible(self) -> None:
        """What is in neither raises, and names the event and the state."""
        for state, event in set(product(State, Event)) - MOVES.keys() - IGNORED:
            with self.assertRaises(ImpossibleEvent) as caught:
                step(state, event)
            self.assertEqual(str(caught.exception), f"{event.value} while {state.value}")

    def test_a_stop_is_possible_in_every_state(self) -> None:
        """From every state, a stop and the process's end lead to stopped."""
        for state in State:
            after = step(state, Event.STOP).to
            if after is not State.STOPPED:
                after = step(after, Event.EXITED).to
            self.assertIs(after, State.STOPPED)

    def test_an_exit_is_followed_by_a_pause_unless_a_stop_was_ordered(self) -> None:
        """Wherever a process can end by itself, its next start waits."""
        for state in WITH_PROCESS - {State.STOPPING}:
            self.assertEqual(step(state, Event.EXITED), Move(State.BACKOFF, (Action.WAIT,)))

    def test_a_second_process_is_never_spawned_beside_one(self) -> None:
        """A spawn is ordered only where no process exists."""
        for (state, _), move in MOVES.items():
            if Action.SPAWN in move.actions:
                self.assertNotIn(state, WITH_PROCESS)

    def test_A13_a_process_that_outlives_sigkill_is_never_replaced(self) -> None:
        """Only its end leads on, or a stop that leaves it behind."""
        ways = {event: move.to for (state, event), move in MOVES.items() if state is UNKILLABLE}
        self.assertEqual(ways, {Event.EXITED: State.BACKOFF, Event.STOP: State.STOPPED})

    def test_A15_without_its_gpu_nothing_is_started(self) -> None:
        """Only its return leads on, and then through a pause: it may be lost again at once."""
        ways = {event: move.to for (state, event), move in MOVES.items() if state is GPU_LOST}
        self.assertEqual(ways, {Event.FOUND: State.BACKOFF, Event.STOP: State.STOPPED})

    def test_every_state_can_be_reached(self) -> None:
        """No state of the wire's vocabulary is without a way to it."""
        self.assertEqual({move.to for move in MOVES.values()}, set(State))

    def test_every_word_is_explained(self) -> None:
        """States, events and actions each have a meaning for the docs."""
        self.assertEqual(set(MEANINGS), {*State, *Event, *Action})


class DocsTests(SynchronousTestCase):
    def test_the_docs_show_this_table(self) -> None:
        """docs/NODE_AGENT.md contains the table as it is."""
        self.assertIn(markdown(), DOCS.read_text(encoding="utf-8"))
