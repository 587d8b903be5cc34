"""A backend's health as the gateway sees it: one table of moves, one pure step.

Checks are the gateway's own questions, outcomes are what traffic showed. Some moves need several
events of a kind in a row, so that one slow answer does not empty a role.
"""

from enum import StrEnum

from attrs import evolve, frozen


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

FIRST_EJECTION = 10.0
LONGEST_EJECTION = 300.0
SLOW_START = 30.0


@frozen
class Health:
    """A backend's condition and how it came there; times are seconds of one monotonic clock.

    `streak` counts the latest run of `sign`; `until` ends an ejection; `ejections` grows it.
    """

    condition: Condition = Condition.UNKNOWN
    since: float = 0.0
    sign: Sign | None = None
    streak: int = 0
    ejections: int = 0
    until: float = 0.0
    recovered: bool = False

    def warmth(self, now: float) -> float:
        """From 0 to 1: how much of its share a backend gets that has just come back."""
        if not self.recovered:
            return 1.0
        return min(1.0, max(0.1, (now - self.since) / SLOW_START))


def step(health: Health, sign: Sign, now: float) -> Health:
    """What a backend's health is after one more sign."""
    streak = health.streak + 1 if sign is health.sign else 1
    health = evolve(health, sign=sign, streak=streak)
    move = MOVES.get((health.condition, sign))
    if move is None or streak < move.after:
        return health
    if move.to is Condition.EJECTED:
        return _eject(health, now)
    ejections = 0 if health.condition is Condition.DOWN else health.ejections
    return evolve(
        health,
        condition=move.to,
        since=now,
        streak=0,
        ejections=ejections,
        recovered=health.condition in (Condition.DOWN, Condition.EJECTED),
    )


def _eject(health: Health, now: float) -> Health:
    ejections = health.ejections + 1
    length = min(FIRST_EJECTION * ejections, LONGEST_EJECTION)
    return evolve(
        health,
        condition=Condition.EJECTED,
        since=now,
        streak=0,
        ejections=ejections,
        until=now + length,
    )


def as_markdown() -> str:
    """The table as the documentation prints it."""
    rows = ["| from | sign | to |", "|---|---|---|"]
    for (start, sign), move in MOVES.items():
        times = f" ({move.after} in a row)" if move.after > 1 else ""
        rows.append(f"| {start.value} | {sign.value}{times} | {move.to.value} |")
    return "\n".join(rows) + "\n"
