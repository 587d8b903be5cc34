"""The promises of `rolemesh.core.limits`: row C26 among them."""

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import LONGEST_HINT, Refusal
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint
from rolemesh.core.limits import DAY, MINUTE, Allowance, Pace, left_of_day, span

NOON = 100 * DAY + DAY / 2
KEY = evolve(mint(KeyKind.CLIENT, bytes(ENTROPY), 0.0)[1], name="ci")


class AllowanceCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.used = Allowance()

    def enter(self, key: KeyRecord, now: float = 0.0, tokens: int = 0, wall: float = NOON) -> None:
        self.used.enter(key, tokens, now, wall)

    def refusal(self, key: KeyRecord, now: float = 0.0, **more: float) -> Refusal:
        return self.assertRaises(Refusal, self.enter, key, now, **more)


class PaceTests(AllowanceCase):
    """Requests a minute."""

    key = evolve(KEY, rpm=60)

    def test_C26_as_many_as_allowed(self) -> None:
        """Sixty may be sent at once, the next one second later, and so on for ever."""
        for _ in range(60):
            self.enter(self.key)
        refused = self.refusal(self.key)
        self.assertEqual((refused.status, refused.code), (429, "rate_limit_exceeded"))
        self.assertEqual(refused.headers()["retry-after-ms"], "1000")
        for second in range(1, 5):
            self.enter(self.key, now=float(second))
            self.refusal(self.key, now=float(second))

    def test_another_span(self) -> None:
        """What leaks out in a minute leaks out in that: here fifty in five seconds."""
        pace = Pace(5.0)
        for _ in range(50):
            self.assertGreater(pace.left(50, 0.0), 0)
            pace.take(50, 0.0)
        self.assertEqual((pace.left(50, 0.05), pace.left(50, 0.1)), (0, 1))
        self.assertAlmostEqual(pace.promise(50, 0.0), 0.1)
        self.assertAlmostEqual(pace.reset(50, 1.0), 4.0)

    def test_says_what_and_when(self) -> None:
        """The refusal has the key's name, its limit, what is left and when to come."""
        key = evolve(self.key, rpm=1)
        self.enter(key)
        told = str(self.refusal(key, now=12.5))
        self.assertIn("'ci' may send 1 request a minute, and 0 are left", told)
        self.assertIn("Send again in 47.5 s.", told)

    def test_each_has_its_own_time(self) -> None:
        """Those refused together are told to come one after another, and then each gets in."""
        for _ in range(60):
            self.enter(self.key)
        hints = [self.refusal(self.key).retry_after or 0.0 for _ in range(10)]
        self.assertEqual(hints, [float(second) for second in range(1, 11)])
        for hint in hints:
            self.enter(self.key, now=hint)

    def test_no_hint_is_too_long(self) -> None:
        """However many are refused, and by whatever limit, none is told to wait over a minute."""
        for rpm in (1, 60, 1000):
            key, self.used = evolve(KEY, rpm=rpm), Allowance()
            self.used.pace.elsewhere(10**6, 0.0)
            hints = [self.refusal(key).headers() for _ in range(100)]
            longest = max(int(each["retry-after-ms"]) for each in hints)
            self.assertLessEqual(longest, LONGEST_HINT * 1000)

    def test_refused_costs_nothing(self) -> None:
        """Who is refused does not put off the time at which it gets in."""
        key = evolve(self.key, rpm=1)
        self.enter(key)
        for second in range(59):
            self.refusal(key, now=float(second))
        self.enter(key, now=60.0)

    def test_elsewhere(self) -> None:
        """What other gateways let in counts, also before the key was seen here, within bounds."""
        self.used.pace.elsewhere(59, 0.0)
        self.enter(self.key)
        self.refusal(self.key)
        self.used.pace.elsewhere(10_000, 0.0)
        self.refusal(self.key, now=60.0)
        self.enter(self.key, now=61.1)

    def test_changed_limit(self) -> None:
        """Another limit holds from the next request on."""
        for _ in range(60):
            self.enter(self.key)
        self.enter(evolve(self.key, rpm=100))
        self.refusal(evolve(self.key, rpm=10), now=1.0)

    def test_clock_that_stands_or_goes_back(self) -> None:
        """Time that goes backwards gives nothing, and takes nothing."""
        pace = Pace()
        pace.take(60, 100.0)
        self.assertEqual(pace.left(60, 50.0), 59)
        self.assertEqual(pace.left(60, 101.0), 60)

    @given(st.integers(1, 50), st.lists(st.floats(0, 30), max_size=150))
    def test_never_more_than_twice(self, rpm: int, waits: list[float]) -> None:
        """However it is asked, no minute sees more than what was saved up and what leaked."""
        pace, now, let_in = Pace(), 0.0, []
        for wait in waits:
            now += wait
            if pace.left(rpm, now):
                pace.take(rpm, now)
                let_in.append(now)
        for begin in let_in:
            self.assertLessEqual(sum(begin <= each < begin + MINUTE for each in let_in), 2 * rpm)


class ConcurrencyTests(AllowanceCase):
    """Requests under way at once."""

    key = evolve(KEY, concurrency=2)

    def test_C26_no_more_at_once(self) -> None:
        """The third is refused until one of the two is over."""
        self.enter(self.key)
        self.enter(self.key)
        refused = self.refusal(self.key)
        self.assertEqual((refused.code, refused.should_retry()), ("rate_limit_exceeded", True))
        self.assertIn("'ci' may have 2 requests under way at once, and has 2", refused.message)
        self.used.leave()
        self.enter(self.key)

    def test_refused_takes_no_turn(self) -> None:
        """What is refused by one limit is not counted by another."""
        key = evolve(KEY, concurrency=1, rpm=2)
        self.enter(key)
        self.refusal(key)
        self.used.leave()
        self.enter(key)
        self.assertEqual(self.used.in_flight, 1)


class QuotaTests(AllowanceCase):
    """Tokens in a day."""

    key = evolve(KEY, tokens_per_day=1000)

    def test_C26_until_midnight(self) -> None:
        """Once the tokens are used it is 429 `quota_exceeded`, which nobody retries for hours."""
        self.enter(self.key, tokens=999)
        refused = self.refusal(self.key, tokens=1003)
        self.assertEqual((refused.status, refused.code), (429, "quota_exceeded"))
        self.assertEqual(refused.headers(), {"x-should-retry": "false"})
        self.assertIn("1000 tokens a day, and has used 1003", refused.message)
        self.assertIn("begins in 12h0m0s, at midnight UTC", refused.message)

    def test_C26_shortly_before_midnight(self) -> None:
        """In the day's last minute it is retried, and when told to the day is new."""
        refused = self.refusal(self.key, tokens=1000, wall=101 * DAY - 30)
        self.assertEqual(refused.headers()["retry-after-ms"], "30000")


class HeaderTests(AllowanceCase):
    """What is told on every answer."""

    def test_openai_s_names(self) -> None:
        """Limit, what remains, and when all of it is there again."""
        key = evolve(KEY, rpm=60, tokens_per_day=1000)
        self.enter(key)
        told = self.used.headers(key, 100, 0.5, NOON)
        self.assertEqual(told, {
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "59",
            "x-ratelimit-reset-requests": "500ms",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "900",
            "x-ratelimit-reset-tokens": "12h0m0s",
        })  # fmt: skip

    def test_only_what_is_limited(self) -> None:
        """Of what has no limit nothing is said."""
        self.assertEqual(self.used.headers(KEY, 5, 0.0, NOON), {})
        self.assertEqual(len(self.used.headers(evolve(KEY, rpm=1), 5, 0.0, NOON)), 3)

    def test_spans(self) -> None:
        """Times are written as OpenAI writes them."""
        for seconds, text in (
            (0.0, "0ms"), (0.12, "120ms"), (1.2, "1.2s"), (59.0, "59s"), (60.0, "1m0s"),
            (3599.6, "1h0m0s"), (43203.0, "12h0m3s"),
        ):  # fmt: skip
            self.assertEqual(span(seconds), text)

    def test_day_s_end(self) -> None:
        """A day ends at midnight UTC; its first moment has a whole day left."""
        self.assertEqual((left_of_day(5 * DAY), left_of_day(5 * DAY + 1)), (DAY, DAY - 1))
