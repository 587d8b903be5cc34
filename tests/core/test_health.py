"""A backend's health: every row of the table, every pair that has none, and the figures of P1."""

from itertools import product
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import (
    ENDS,
    FIRST_EJECTION,
    FORGIVEN,
    LONGEST_EJECTION,
    MOVES,
    SLOW_START,
    Condition,
    Health,
    Sign,
    as_markdown,
    step,
)

DOCS = Path(__file__).parents[2] / "docs" / "HEALTH.md"
C, S = Condition, Sign


def after(*signs: Sign, health: Health | None = None, now: float = 0.0) -> Health:
    health = health or Health()
    for sign in signs:
        health = step(health, sign, now)
    return health


def ejected(health: Health, now: float) -> Health:
    return after(*[S.BROKE] * 5, health=health, now=now)


class WordsTests(SynchronousTestCase):
    def test_B9_B20_an_ejection_says_what_for(self) -> None:
        """Also once checks were answered since; no other condition says more than its name."""
        for sign, count in ((S.MISFIT, 2), (S.BROKE, 5), (S.STUCK, 1)):
            health = after(S.CHECK_OK, *[sign] * count, S.CHECK_OK)
            self.assertEqual(str(health), f"ejected: {sign.value}")
            self.assertEqual(str(after(S.ELAPSED, health=health)), "up")


class TableTests(SynchronousTestCase):
    def test_each_row_is_the_move_that_step_makes(self) -> None:
        """`step` makes each move of the table at just the sign in a row that it names."""
        for (start, sign), move in MOVES.items():
            before = after(*[sign] * (move.after - 1), health=Health(start))
            self.assertIs(before.condition, start)
            self.assertIs(step(before, sign, 0.0).condition, move.to)

    def test_any_other_pair_changes_nothing(self) -> None:
        """A sign without a row, however often, leaves the condition; every pair has a result."""
        for start, sign in product(Condition, Sign):
            if (start, sign) not in MOVES:
                self.assertIs(after(*[sign] * 50, health=Health(start)).condition, start)

    def test_only_checks_bring_a_backend_up(self) -> None:
        """What is down, loading or unknown takes no requests until a check is answered; an ejection
        ends by time alone."""
        ways = {(start, sign) for (start, sign), move in MOVES.items() if move.to is C.UP}
        checked = {(start, S.CHECK_OK) for start in (C.UNKNOWN, C.LOADING, C.DOWN)}
        self.assertEqual(ways, checked | {(C.EJECTED, S.ELAPSED)})

    def test_the_docs_show_this_table(self) -> None:
        """docs/HEALTH.md contains the table as it is."""
        shown = DOCS.read_text(encoding="utf-8").split("<!-- health table -->\n")[1]
        self.assertEqual(shown, as_markdown())

    @given(st.lists(st.tuples(st.sampled_from(Sign), st.floats(0, 100)), max_size=60))
    def test_whatever_is_seen(self, seen: list[tuple[Sign, float]]) -> None:
        """Any signs at any times give a condition, a warmth from 0.1 to 1 and an ejection in
        bounds."""
        health, now = Health(), 0.0
        for sign, passed in seen:
            now += passed
            health = step(health, sign, now)
            self.assertIs(health.sign, sign)
            self.assertTrue(0.1 <= health.warmth(now) <= 1.0)
            if health.condition is C.EJECTED:
                self.assertLessEqual(health.until - health.since, LONGEST_EJECTION)


class RowTests(SynchronousTestCase):
    up = after(S.CHECK_OK)

    def test_P1_refused_is_down_at_once(self) -> None:
        """One refused connection takes a backend out."""
        self.assertIs(after(S.REFUSED, health=self.up).condition, C.DOWN)

    def test_P1_three_failed_checks(self) -> None:
        """Two failed checks are forgiven by a good one, three in a row take a backend out."""
        twice = after(S.CHECK_FAILED, S.CHECK_FAILED, S.CHECK_OK, S.CHECK_FAILED, health=self.up)
        self.assertIs(twice.condition, C.UP)
        third = after(S.CHECK_FAILED, S.CHECK_FAILED, health=twice)
        self.assertIs(third.condition, C.DOWN)

    def test_P1_two_good_checks_bring_it_back(self) -> None:
        """One good check is not enough, and a failed or refused one between two starts anew."""
        down = after(S.REFUSED, health=self.up)
        self.assertIs(after(S.CHECK_OK, health=down).condition, C.DOWN)
        self.assertIs(after(S.CHECK_OK, S.CHECK_OK, health=down).condition, C.UP)
        for bad in (S.CHECK_FAILED, S.REFUSED):
            self.assertIs(after(S.CHECK_OK, bad, S.CHECK_OK, health=down).condition, C.DOWN)

    def test_P1_failing_requests_do_not_hide_failing_checks(self) -> None:
        """Requests that break between failed checks do not keep a backend up."""
        seen = (S.CHECK_FAILED, S.BROKE, S.CHECK_FAILED, S.BROKE, S.CHECK_FAILED)
        self.assertIs(after(*seen, health=self.up).condition, C.DOWN)

    def test_progress_forgives_failed_checks(self) -> None:
        """A server that answers requests is not down, though it is too busy to answer checks."""
        seen = (S.CHECK_FAILED, S.CHECK_FAILED, S.SERVED) * 9
        self.assertIs(after(*seen, health=self.up).condition, C.UP)

    def test_P8_good_checks_do_not_hide_failing_requests(self) -> None:
        """Five failed requests eject at low traffic too, with good checks between any two."""
        seen = (S.BROKE, S.CHECK_OK, S.CHECK_OK) * 4
        self.assertIs(after(*seen, health=self.up).condition, C.UP)
        self.assertIs(after(*seen, S.BROKE, health=self.up).condition, C.EJECTED)

    def test_P8_an_answer_forgives(self) -> None:
        """One request that is answered begins the count anew."""
        seen = (*[S.BROKE] * 4, S.SERVED) * 3
        self.assertIs(after(*seen, health=self.up).condition, C.UP)

    def test_B16_loading_is_no_failure(self) -> None:
        """Loading moves a backend aside at once, and back with one good check."""
        loading = after(S.CHECK_LOADING, health=self.up)
        self.assertEqual((loading.condition, loading.ejections), (C.LOADING, 0))
        self.assertIs(after(S.CHECK_OK, health=loading).condition, C.UP)

    def test_signs_that_end_others_are_checks_and_outcomes(self) -> None:
        """No sign ends its own row."""
        for sign, ended in ENDS.items():
            self.assertNotIn(sign, ended)


class EjectionTests(SynchronousTestCase):
    def test_P8_it_grows_and_is_capped(self) -> None:
        """Each ejection soon after another is 10 s longer, up to 300 s, and lasts to its end."""
        health, now = after(S.CHECK_OK), 0.0
        for n in range(1, 40):
            health = ejected(health, now)
            self.assertIs(health.condition, C.EJECTED)
            self.assertEqual(health.until - now, min(FIRST_EJECTION * n, LONGEST_EJECTION))
            now = health.until
            health = step(health, S.ELAPSED, now)
            self.assertIs(health.condition, C.UP)
        self.assertEqual((FIRST_EJECTION, LONGEST_EJECTION), (10.0, 300.0))

    def test_good_times_forgive(self) -> None:
        """After five minutes in good health an ejection is the first again."""
        for good, seconds in ((FORGIVEN - 1, 20.0), (FORGIVEN, 10.0)):
            health = step(ejected(after(S.CHECK_OK), 0.0), S.ELAPSED, 10.0)
            again = ejected(health, 10.0 + good)
            self.assertEqual(again.until - again.since, seconds)

    def test_nothing_but_time_and_worse_ends_it(self) -> None:
        """Good checks and answers do not end an ejection; worse news do."""
        out = ejected(after(S.CHECK_OK), 0.0)
        self.assertIs(after(*[S.CHECK_OK, S.SERVED] * 9, health=out).condition, C.EJECTED)
        self.assertIs(after(S.REFUSED, health=out).condition, C.DOWN)

    def test_being_down_begins_anew(self) -> None:
        """A backend that was down and came back has no ejections behind it."""
        down = after(S.REFUSED, health=ejected(after(S.CHECK_OK), 0.0))
        self.assertEqual(after(S.CHECK_OK, S.CHECK_OK, health=down).ejections, 0)


class WarmthTests(SynchronousTestCase):
    def test_a_first_start_is_warm(self) -> None:
        """A backend that was never away takes its full share at once."""
        self.assertEqual(after(S.CHECK_OK).warmth(0.0), 1.0)
        self.assertEqual(after(S.CHECK_LOADING, S.CHECK_OK).warmth(0.0), 1.0)

    def test_P1_slow_start(self) -> None:
        """Who comes back from down, ejected or a new load grows to its full share in 30 s."""
        up = after(S.CHECK_OK)
        for seen in (
            (S.REFUSED, S.CHECK_OK, S.CHECK_OK),
            (S.REFUSED, S.CHECK_LOADING, S.CHECK_OK),
            (S.CHECK_LOADING, S.CHECK_OK),
            (*[S.BROKE] * 5, S.ELAPSED),
        ):
            back = after(*seen, health=up, now=100.0)
            self.assertIs(back.condition, C.UP)
            warmths = [back.warmth(100.0 + passed) for passed in (0.0, 15.0, 30.0, 999.0)]
            self.assertEqual(warmths, [0.1, 0.5, 1.0, 1.0])
        self.assertEqual(SLOW_START, 30.0)
