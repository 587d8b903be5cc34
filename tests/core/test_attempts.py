"""What a failed try leads to: the table, and what a client is told in the end."""

import re

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.attempts import MOST, MOST_DEATHS, RULES, Outcome, Rule, Try, may_go_on, refusal
from rolemesh.core.errors import KINDS
from rolemesh.core.health import MOVES, Condition, Sign
from rolemesh.core.model import BackendId

STANDING = "'coder' is ready 1/3"


def tries(*outcomes: Outcome) -> list[Try]:
    return [Try(BackendId(f"box{n}", "gpu0"), each, 0.1) for n, each in enumerate(outcomes, 1)]


class RuleTests(SynchronousTestCase):
    def test_every_outcome_has_a_rule(self) -> None:
        """Each outcome has a rule whose code stands in the table of errors."""
        self.assertEqual(set(RULES), set(Outcome))
        for rule in RULES.values():
            self.assertIn(rule.code, KINDS)
            self.assertIsInstance(rule, Rule)

    def test_B16_B17_loading_and_busy_do_not_eject(self) -> None:
        """A backend that loads or is busy has not failed."""
        self.assertIsNone(RULES[Outcome.BUSY].sign)
        move = MOVES[Condition.UP, RULES[Outcome.LOADING].sign or Sign.BROKE]
        self.assertIs(move.to, Condition.LOADING)

    def test_what_may_have_been_delivered_or_takes_long_is_not_repeated(self) -> None:
        """After a first byte, or a whole time limit, no other backend is asked."""
        final = {outcome for outcome, rule in RULES.items() if not rule.again}
        self.assertEqual(final, {Outcome.SERVED, Outcome.OVERDUE, Outcome.CUT})


class GoOnTests(SynchronousTestCase):
    def test_B3_silence_is_moved_once(self) -> None:
        """A request that one backend was silent at goes to one more, and not to a third."""
        self.assertTrue(may_go_on(tries(Outcome.FIRST_BYTE_TIMEOUT)))
        self.assertFalse(may_go_on(tries(Outcome.FIRST_BYTE_TIMEOUT, Outcome.WEDGED)))

    def test_P4_three_tries_at_most(self) -> None:
        """However harmless the failures, a request is tried three times."""
        self.assertTrue(may_go_on(tries(*[Outcome.REFUSED] * (MOST - 1))))
        self.assertFalse(may_go_on(tries(*[Outcome.REFUSED] * MOST)))
        self.assertEqual(MOST, 3)

    def test_P7_two_deaths_at_most(self) -> None:
        """A request that took down two backends gets no third, whatever was between them."""
        self.assertTrue(may_go_on(tries(Outcome.DIED)))
        self.assertFalse(may_go_on(tries(Outcome.DIED, Outcome.DIED)))
        self.assertFalse(may_go_on(tries(Outcome.FAULT, Outcome.DIED)))
        self.assertTrue(may_go_on(tries(Outcome.DIED, Outcome.REFUSED)))
        self.assertEqual(MOST_DEATHS, 2)

    def test_B18_a_fault_goes_on_once(self) -> None:
        """A backend's own failure is tried at one other, as it may be the request's doing, and
        counts against it."""
        self.assertIs(RULES[Outcome.FAULT].sign, Sign.BROKE)
        self.assertTrue(may_go_on(tries(Outcome.FAULT)))
        self.assertFalse(may_go_on(tries(Outcome.FAULT, Outcome.FAULT)))

    def test_B9_B20_no_answers_count_against_a_backend(self) -> None:
        """What is no answer, or a locked door, is another one's turn, and soon an ejection."""
        for outcome in (Outcome.GARBLED, Outcome.LOCKED_OUT):
            self.assertTrue(may_go_on(tries(outcome)))
            move = MOVES[Condition.UP, RULES[outcome].sign or Sign.SERVED]
            self.assertEqual((move.to, move.after), (Condition.EJECTED, 2))

    def test_the_last_one_decides(self) -> None:
        """Each outcome lets a first try go on as its rule says."""
        for outcome, rule in RULES.items():
            self.assertEqual(may_go_on(tries(outcome)), rule.again)


class RefusalTests(SynchronousTestCase):
    def test_it_says_what_where_and_what_next(self) -> None:
        """The message names the backend, what it did, how many were asked and how the role is."""
        for outcomes, asked in (
            ((), ""),
            ((Outcome.REFUSED,), ", after 1 other"),
            ((Outcome.REFUSED, Outcome.LOADING), ", after 2 others"),
        ):
            told = refusal(tries(*outcomes, Outcome.DIED), STANDING)
            where = f"box{len(outcomes) + 1}/gpu0"
            expected = f"{where} went away before it answered{asked}; 'coder' is ready 1/3."
            self.assertEqual((told.code, told.message), ("upstream_disconnected", expected))

    def test_no_address(self) -> None:
        """No message has a host, a port or a URL in it."""
        for outcome in Outcome:
            text = str(refusal(tries(outcome), STANDING))
            self.assertIsNone(re.search(r"://|\d\.\d|:\d", text), text)

    def test_P7_a_second_death_is_not_to_be_sent_again(self) -> None:
        """After two deaths the client is told not to retry; after one it may."""
        self.assertTrue(refusal(tries(Outcome.DIED), STANDING).should_retry())
        twice = refusal(tries(Outcome.DIED, Outcome.DIED), STANDING)
        self.assertEqual(twice.headers(), {"x-should-retry": "false"})

    def test_B16_all_loading(self) -> None:
        """When all that were asked are loading, it is model_loading with Retry-After 5."""
        told = refusal(tries(Outcome.LOADING, Outcome.LOADING), STANDING)
        self.assertEqual((told.status, told.code), (503, "model_loading"))
        self.assertEqual(told.headers()["retry-after"], "5")
        self.assertTrue(told.should_retry())

    def test_B17_all_busy(self) -> None:
        """When all that were asked are busy with other work, it is role_saturated."""
        told = refusal(tries(Outcome.BUSY), STANDING)
        self.assertEqual((told.status, told.code), (429, "role_saturated"))
        self.assertEqual(told.headers()["retry-after"], "2")
