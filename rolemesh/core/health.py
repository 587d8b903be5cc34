"""A backend's health as the gateway sees it: one table of moves, one pure step.

Checks are the gateway's own questions, outcomes are what traffic showed. Some moves need several
signs of a kind in a row, so that one slow answer does not empty a role; only what contradicts a
sign ends its row, so that good checks do not hide that every request fails.
"""

from collections.abc import Mapping
from enum import StrEnum

from attrs import evolve, field, frozen


class Condition(StrEnum):
    """Where a backend stands. Only UP takes requests; EJECTED does when nothing else is left."""

    UNKNOWN = "unknown"
    UP = "up"
    LOADING = "loading"
    EJECTED = "ejected"
    DOWN = "down"


class Sign(StrEnum):
    """What was seen of a backend."""

    CHECK_OK = "a check was answered"
    CHECK_LOADING = "a check was answered: loading"
    CHECK_FAILED = "a check failed"
    REFUSED = "a request could not connect"
    SERVED = "a request was answered"
    BROKE = "a request failed at the backend"
    MISFIT = "it sent garbage, or refused the gateway's key"
    STUCK = "it has requests and makes no progress"
    ELAPSED = "the ejection is over"


@frozen
class Move:
    """Go `to` another condition once the sign was seen `after` times in a row."""

    to: Condition
    after: int = 1


C, S = Condition, Sign

MOVES: dict[tuple[Condition, Sign], Move] = {
    (C.UNKNOWN, S.CHECK_OK): Move(C.UP),
    (C.UNKNOWN, S.CHECK_LOADING): Move(C.LOADING),
    (C.UNKNOWN, S.CHECK_FAILED): Move(C.DOWN),
    (C.UNKNOWN, S.REFUSED): Move(C.DOWN),
    (C.UP, S.CHECK_LOADING): Move(C.LOADING),
    (C.UP, S.CHECK_FAILED): Move(C.DOWN, after=3),
    (C.UP, S.REFUSED): Move(C.DOWN),
    (C.UP, S.BROKE): Move(C.EJECTED, after=5),
    (C.UP, S.MISFIT): Move(C.EJECTED, after=2),
    (C.UP, S.STUCK): Move(C.EJECTED),
    (C.LOADING, S.CHECK_OK): Move(C.UP),
    (C.LOADING, S.CHECK_FAILED): Move(C.DOWN, after=3),
    (C.LOADING, S.REFUSED): Move(C.DOWN),
    (C.EJECTED, S.ELAPSED): Move(C.UP),
    (C.EJECTED, S.CHECK_LOADING): Move(C.LOADING),
    (C.EJECTED, S.CHECK_FAILED): Move(C.DOWN, after=3),
    (C.EJECTED, S.REFUSED): Move(C.DOWN),
    (C.DOWN, S.CHECK_OK): Move(C.UP, after=2),
    (C.DOWN, S.CHECK_LOADING): Move(C.LOADING),
}

_CHECKS = frozenset({S.CHECK_OK, S.CHECK_LOADING, S.CHECK_FAILED})

ENDS: Mapping[Sign, frozenset[Sign]] = {
    S.CHECK_OK: _CHECKS - {S.CHECK_OK},
    S.CHECK_LOADING: _CHECKS - {S.CHECK_LOADING},
    S.CHECK_FAILED: _CHECKS - {S.CHECK_FAILED},
    S.REFUSED: frozenset({S.CHECK_OK}),
    S.SERVED: frozenset({S.BROKE, S.MISFIT, S.CHECK_FAILED}),
}
"""Which rows a sign ends besides its own going on."""

FIRST_EJECTION = 10.0
STUCK_EJECTION = 120.0  # whoever makes no progress is not well again so soon
LONGEST_EJECTION = 300.0
FORGIVEN = 300.0  # seconds of good health after which an ejection is the first again
SLOW_START = 30.0


@frozen
class Health:
    """A backend's condition and how it came there; times are seconds of one monotonic clock.

    `sign` is the latest one, `cause` that which brought it there; `rows` counts the signs that
    nothing has contradicted since then; `until` ends an ejection; `ejections` grows it.
    """

    condition: Condition = Condition.UNKNOWN
    since: float = 0.0
    sign: Sign | None = None
    cause: Sign | None = None
    rows: Mapping[Sign, int] = field(factory=dict, hash=False)
    ejections: int = 0
    until: float = 0.0
    recovered: bool = False

    def __str__(self) -> str:
        """The condition in words, with what an ejection is for."""
        ejected = self.condition is Condition.EJECTED and self.cause is not None
        return f"{self.condition.value}: {self.cause}" if ejected else self.condition.value

    def warmth(self, now: float) -> float:
        """From 0 to 1: how much of its share a backend gets that has just come back."""
        if not self.recovered:
            return 1.0
        return min(1.0, max(0.1, (now - self.since) / SLOW_START))


def step(health: Health, sign: Sign, now: float) -> Health:
    """What a backend's health is after one more sign."""
    ended = ENDS.get(sign, frozenset())
    rows = {each: count for each, count in health.rows.items() if each not in ended}
    rows[sign] = rows.get(sign, 0) + 1
    move = MOVES.get((health.condition, sign))
    if move is None or rows[sign] < move.after:
        return evolve(health, sign=sign, rows=rows)
    moved = evolve(health, sign=sign, cause=sign, rows={}, condition=move.to, since=now)
    if move.to is Condition.EJECTED:
        return _ejected(moved, now, forgiven=now - health.since >= FORGIVEN)
    return evolve(
        moved,
        ejections=0 if health.condition is Condition.DOWN else health.ejections,
        recovered=health.recovered or health.condition in _CAN_COME_BACK,
    )


_CAN_COME_BACK = (Condition.UP, Condition.EJECTED, Condition.DOWN)


def _ejected(health: Health, now: float, *, forgiven: bool) -> Health:
    ejections = 1 if forgiven else health.ejections + 1
    first = STUCK_EJECTION if health.sign is Sign.STUCK else FIRST_EJECTION
    length = min(first * ejections, LONGEST_EJECTION)
    return evolve(health, ejections=ejections, until=now + length)


def as_markdown() -> str:
    """The table as the documentation prints it."""
    rows = ["| from | sign | to |", "|---|---|---|"]
    for (start, sign), move in MOVES.items():
        times = f" ({move.after} in a row)" if move.after > 1 else ""
        rows.append(f"| {start.value} | {sign.value}{times} | {move.to.value} |")
    return "\n".join(rows) + "\n"
