"""What progress is, and what follows when there is none."""

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.lifecycle import Event
from rolemesh.core.model import BackendState as State
from rolemesh.core.vigil import (
    LOOK_EVERY,
    Patience,
    Pulse,
    Signs,
    Vigil,
    loading_progress,
    verdict,
)

IDLE, BUSY, SILENT = Pulse(True, 0), Pulse(True, 1, ("7:40",)), Pulse()
READING = Pulse(True, 1, ("7:0",), reading=True)


def still(looks: Sequence[tuple[Pulse, Signs]]) -> float:
    """For how long nothing moved after these looks, two seconds from one to the next."""
    vigil = Vigil()
    for pulse, signs in looks:
        vigil = vigil.seeing(pulse.progress(signs), LOOK_EVERY)
    return vigil.still


class ServingTests(SynchronousTestCase):
    def assertMoves(self, *looks: tuple[Pulse, Signs]) -> None:
        self.assertEqual(still(looks), 0)

    def assertStands(self, *looks: tuple[Pulse, Signs]) -> None:
        self.assertEqual(still(looks), LOOK_EVERY * (len(looks) - 1))

    def test_A9_busy_slots_that_write_nothing_stand_still(self) -> None:
        """Whatever the processor and the GPU burn: a slot that wrote once has to write on."""
        hot = [(BUSY, Signs(cpu=10.0 * n, utilization=1.0)) for n in range(4)]
        self.assertStands(*hot)

    def test_A9_a_token_moves(self) -> None:
        """One token in two seconds is slow, and progress."""
        self.assertMoves((BUSY, Signs()), (Pulse(True, 1, ("7:41",)), Signs()))

    def test_A9_an_idle_server_has_nothing_to_show(self) -> None:
        """No busy slot, no suspicion; neither where the server does not tell of slots."""
        self.assertMoves((IDLE, Signs()), (IDLE, Signs()))
        self.assertMoves((Pulse(True), Signs()), (Pulse(True), Signs()))

    def test_A8_a_long_prompt_is_work_while_the_gpu_works(self) -> None:
        """Its numbers may stand for minutes; the load of the GPU tells, or else the processor."""
        loaded, idle = Signs(utilization=0.4), Signs(utilization=0.0)
        self.assertMoves((READING, loaded), (READING, loaded))
        self.assertStands((READING, idle), (READING, idle))
        self.assertMoves((READING, Signs(cpu=10)), (READING, Signs(cpu=14)))

    def test_A8_a_silent_server_that_works_is_not_stuck(self) -> None:
        """Not to answer for long, as in a large batch, is no fault by itself."""
        self.assertMoves((SILENT, Signs(cpu=10)), (SILENT, Signs(cpu=14)))
        self.assertStands((SILENT, Signs(cpu=10)), (SILENT, Signs(cpu=10.01)))

    def test_A8_a_driver_that_burns_the_processor_is_not_work(self) -> None:
        """Where the GPU tells its load, that alone counts."""
        spins = [(SILENT, Signs(cpu=10.0 * n, utilization=0.0)) for n in range(3)]
        self.assertStands(*spins)


class LoadingTests(SynchronousTestCase):
    def test_A6_each_sign_of_a_load_is_progress(self) -> None:
        """Bytes read, memory, memory of the GPU, a line of the log."""
        before = loading_progress(Signs(1, 1, 1), 1)
        for signs, lines in ((Signs(2, 1, 1), 1), (Signs(1, 2, 1), 1), (Signs(1, 1, 2), 1)):
            self.assertNotEqual(loading_progress(signs, lines), before)
        self.assertNotEqual(loading_progress(Signs(1, 1, 1), 2), before)

    def test_A7_processor_time_alone_is_none(self) -> None:
        """A load that spins does not load."""
        self.assertEqual(loading_progress(Signs(cpu=9), 1), loading_progress(Signs(), 1))


class VerdictTests(SynchronousTestCase):
    def assertVerdicts(self, state: State, *expected: tuple[float, Event | None]) -> None:
        for seconds, event in expected:
            self.assertIs(verdict(state, seconds, 0, Patience()), event, f"{state} {seconds}")

    def test_A7_a_load_that_hangs_for_five_minutes(self) -> None:
        """It is found then, and not before."""
        for state in (State.STARTING, State.LOADING):
            self.assertVerdicts(state, (299, None), (300, Event.HUNG))

    def test_A9_suspect_first_then_wedged(self) -> None:
        """Half a minute is suspicious, two minutes are enough; in between it may recover."""
        self.assertVerdicts(State.READY, (29, None), (30, Event.STALLED), (500, Event.STALLED))
        self.assertVerdicts(State.SUSPECT, (0, Event.MOVED), (60, None), (120, Event.WEDGED))

    def test_A8_who_works_in_silence_gets_nothing_new_and_is_not_ended(self) -> None:
        """Its load is progress; its silence still means that requests would wait there."""
        for state, event in ((State.READY, Event.STALLED), (State.SUSPECT, None)):
            self.assertIs(verdict(state, 0, 600, Patience()), event)
        self.assertIs(verdict(State.SUSPECT, 0, 1, Patience()), Event.MOVED)

    def test_other_states_are_not_judged(self) -> None:
        """Who is being ended needs no verdict."""
        for state in (State.STOPPING, State.REPLACING, State.BACKOFF):
            self.assertVerdicts(state, (1000, None))


class VigilTests(SynchronousTestCase):
    def test_A34_a_machine_that_slept_saw_nothing(self) -> None:
        """An hour between two looks counts as little as two looks do."""
        vigil = Vigil().seeing("same", 2).seeing("same", 3600)
        self.assertEqual(vigil.still, 2 * LOOK_EVERY)
