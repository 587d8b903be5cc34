"""The limits of keys, held against what they have used."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.web.http import Request

from rolemesh.core.keys import KeyRecord
from rolemesh.core.limits import Allowance


@define(eq=False)
class KeyLimits:
    """Says who may begin a request now. `wall` tells the time of day, `tokens` what a key, by its
    id, has used of it."""

    _clock: IReactorTime
    _wall: Callable[[], float]
    _tokens: Callable[[str], int]
    _allowances: dict[str, Allowance] = field(factory=dict)

    def enter(self, key: KeyRecord | None, request: Request) -> Callable[[], None]:
        """Let a request of a key begin, and tell on its answer what the key has left.

        What is returned is to be called once, when the request is over.

        :raises Refusal: `rate_limit_exceeded`, `quota_exceeded`.
        """
        if key is None or not key.limited:
            return _nothing
        allowance = self._allowance(key.id)
        tokens = 0 if key.tokens_per_day is None else self._tokens(key.id)
        now, wall = self._clock.seconds(), self._wall()
        try:
            allowance.enter(key, tokens, now, wall)
        finally:
            for name, value in allowance.headers(key, tokens, now, wall).items():
                request.setHeader(name, value)
        return allowance.leave

    def elsewhere(self, id: str, count: int) -> None:
        """Another gateway has let in so many requests of a key."""
        self._allowance(id).pace.elsewhere(count, self._clock.seconds())

    def _allowance(self, id: str) -> Allowance:
        return self._allowances.setdefault(id, Allowance())


def _nothing() -> None:
    pass
