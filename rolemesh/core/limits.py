"""What a key may send, in requests a minute and at once and in tokens a day, and what is told."""

from attrs import define, field

from rolemesh.core.errors import LONGEST_HINT, Refusal
from rolemesh.core.keys import KeyRecord

MINUTE, DAY = 60.0, 86_400.0  # seconds
MOST_REQUESTS, MOST_TOKENS = 1_000_000, 10**12  # a higher limit is a slip of the pen
WHEN_ONE_ENDS = 1.0  # seconds; nobody knows when a request under way will be over
_ROUNDING = 1e-6


@define(eq=False)
class Pace:
    """A key's requests of late, as a bucket: it holds `rpm` of them, and `rpm` a minute leak out.

    So a key may send `rpm` at once, and from then on one every `60 / rpm` seconds. Times are of one
    steady clock. With another `span` it is that instead of a minute.
    """

    span: float = MINUTE
    _level: float = 0.0
    _at: float = 0.0
    _rpm: int = 0  # as it was known last
    _promised: float = 0.0

    def left(self, rpm: int, now: float) -> int:
        """How many may be sent now."""
        return max(0, int(rpm - self._filled(rpm, now) + _ROUNDING))

    def take(self, rpm: int, now: float) -> None:
        """Count one as sent."""
        self._level, self._at, self._rpm = self._filled(rpm, now) + 1, now, rpm

    def elsewhere(self, count: int, now: float) -> None:
        """Count so many as sent through other gateways, which can make it twice full."""
        self._level, self._at = self._filled(self._rpm, now) + count, now

    def reset(self, rpm: int, now: float) -> float:
        """Seconds until the whole of `rpm` may be sent at once."""
        return self._filled(rpm, now) * self.span / rpm

    def promise(self, rpm: int, now: float) -> float:
        """Seconds until one who is refused now should come again.

        Each is given a time of its own: of those who all came at the same one, one would get in.
        """
        one = self.span / rpm
        earliest = now + max(0.0, self._filled(rpm, now) + 1 - rpm) * one
        self._promised = max(earliest, min(self._promised + one, now + LONGEST_HINT))
        return self._promised - now

    def _filled(self, rpm: int, now: float) -> float:
        level = min(self._level, 2.0 * rpm) if rpm else self._level
        return max(0.0, level - max(0.0, now - self._at) * rpm / self.span)


@define(eq=False)
class Allowance:
    """What one key has used of its limits, which may change while it is used."""

    pace: Pace = field(factory=Pace)
    in_flight: int = 0

    def enter(self, key: KeyRecord, tokens: int, now: float, wall: float) -> None:
        """Let one more request begin; `leave` it when it is over.

        :param tokens: what the key has used of its day.
        :param now: seconds of a steady clock. `wall` are Unix seconds.
        :raises Refusal: `quota_exceeded`, `rate_limit_exceeded`; then nothing is counted.
        """
        if key.tokens_per_day is not None and tokens >= key.tokens_per_day:
            raise _quota_exceeded(key, key.tokens_per_day, tokens, left_of_day(wall))
        if key.concurrency is not None and self.in_flight >= key.concurrency:
            raise _too_many_at_once(key, key.concurrency, self.in_flight)
        if key.rpm is not None:
            if not self.pace.left(key.rpm, now):
                raise _too_fast(key, key.rpm, self.pace.promise(key.rpm, now))
            self.pace.take(key.rpm, now)
        self.in_flight += 1

    def leave(self) -> None:
        """A request that was let in is over."""
        self.in_flight -= 1

    def headers(self, key: KeyRecord, tokens: int, now: float, wall: float) -> dict[str, str]:
        """What clients are told on every answer, in the headers that they know from OpenAI."""
        told: dict[str, str] = {}
        if key.rpm is not None:
            left, reset = self.pace.left(key.rpm, now), self.pace.reset(key.rpm, now)
            told |= _headers("requests", key.rpm, left, reset)
        if key.tokens_per_day is not None:
            left = max(0, key.tokens_per_day - tokens)
            told |= _headers("tokens", key.tokens_per_day, left, left_of_day(wall))
        return told


def left_of_day(wall: float) -> float:
    """Seconds until the next midnight of UTC."""
    return DAY - wall % DAY


def span(seconds: float) -> str:
    """A time as these headers write it: `120ms`, `1.2s`, `6m0s`, `5h12m3s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < MINUTE:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def _headers(what: str, limit: int, left: int, reset: float) -> dict[str, str]:
    return {
        f"x-ratelimit-limit-{what}": str(limit),
        f"x-ratelimit-remaining-{what}": str(left),
        f"x-ratelimit-reset-{what}": span(reset),
    }


def _too_fast(key: KeyRecord, rpm: int, wait: float) -> Refusal:
    message = (
        f"{_named(key)} may send {_count(rpm, 'request')} a minute, and 0 are left."
        f" Send again in {max(wait, 0.1):.1f} s."
    )
    return Refusal("rate_limit_exceeded", message, retry_after=wait)


def _too_many_at_once(key: KeyRecord, limit: int, in_flight: int) -> Refusal:
    message = (
        f"{_named(key)} may have {_count(limit, 'request')} under way at once, and has"
        f" {in_flight}. Send again when one is over."
    )
    return Refusal("rate_limit_exceeded", message, retry_after=WHEN_ONE_ENDS)


def _quota_exceeded(key: KeyRecord, limit: int, tokens: int, left: float) -> Refusal:
    """Retried only where that can help within the longest hint that clients obey."""
    message = (
        f"{_named(key)} may use {limit} tokens a day, and has used {tokens}."
        f" The next day begins in {span(left)}, at midnight UTC."
    )
    return Refusal("quota_exceeded", message, retry_after=left, retry=left <= LONGEST_HINT)


def _named(key: KeyRecord) -> str:
    return f"The key '{key.name or key.id}'"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
