"""What one try at a backend came to, and what follows from it: a table."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from attrs import frozen

from rolemesh.core.errors import Refusal
from rolemesh.core.health import Sign
from rolemesh.core.model import BackendId

MOST = 3  # tries of one request, each at another backend
MOST_SILENCES = 2  # backends whose time one request may take up
MOST_DEATHS = 2  # backends that one request may take down


class Outcome(StrEnum):
    """How a try ended."""

    SERVED = "served"
    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect_timeout"
    DIED = "died"
    GARBLED = "garbled"
    FIRST_BYTE_TIMEOUT = "first_byte_timeout"
    WEDGED = "wedged"
    OVERDUE = "overdue"
    LOADING = "loading"
    BUSY = "busy"
    FAULT = "fault"
    LOCKED_OUT = "locked_out"
    CUT = "cut"


@frozen
class Rule:
    """What an outcome means: may another backend try, what does it say of this one's health, what
    is the client told when nobody else can, was a process possibly killed by the request, and in
    how many seconds is it worth to ask again."""

    again: bool
    sign: Sign | None
    code: str
    words: str
    deadly: bool = False
    retry_after: float = 2.0


RULES: Mapping[Outcome, Rule] = {
    Outcome.SERVED: Rule(False, Sign.SERVED, "internal_error", "answered"),
    Outcome.REFUSED: Rule(True, Sign.REFUSED, "role_unavailable", "refused the connection"),
    Outcome.CONNECT_TIMEOUT: Rule(
        True, Sign.REFUSED, "role_unavailable", "did not accept the connection in time"
    ),
    Outcome.DIED: Rule(
        True, Sign.BROKE, "upstream_disconnected", "went away before it answered", deadly=True
    ),
    Outcome.GARBLED: Rule(
        True, Sign.MISFIT, "upstream_error", "answered what is no answer to such a request"
    ),
    Outcome.FIRST_BYTE_TIMEOUT: Rule(
        True, Sign.BROKE, "upstream_timeout", "produced nothing in the time allowed"
    ),
    Outcome.OVERDUE: Rule(
        False, Sign.BROKE, "upstream_timeout", "was not done in the time that the role allows"
    ),
    Outcome.WEDGED: Rule(True, None, "upstream_timeout", "makes no progress"),
    Outcome.LOADING: Rule(
        True, Sign.CHECK_LOADING, "model_loading", "is loading its model", retry_after=5.0
    ),
    Outcome.BUSY: Rule(True, None, "role_saturated", "is busy with other work"),
    Outcome.FAULT: Rule(True, Sign.BROKE, "upstream_error", "failed at the request", deadly=True),
    Outcome.LOCKED_OUT: Rule(
        True, Sign.MISFIT, "upstream_error", "does not accept the gateway's own key"
    ),
    Outcome.CUT: Rule(
        False, Sign.BROKE, "upstream_disconnected", "broke off in the middle of its answer"
    ),
}

_SILENT = (Outcome.FIRST_BYTE_TIMEOUT, Outcome.WEDGED)


@frozen
class Try:
    """One try: where, what it came to, after how many seconds."""

    id: BackendId
    outcome: Outcome
    seconds: float


def may_go_on(tries: Sequence[Try]) -> bool:
    """Whether another backend may be asked after these tries, all of which failed."""
    made = sum(each.outcome is not Outcome.BUSY for each in tries)
    silent = sum(each.outcome in _SILENT for each in tries)
    return (
        made < MOST
        and silent < MOST_SILENCES
        and not deadly(tries)
        and RULES[tries[-1].outcome].again
    )


def deadly(tries: Sequence[Try]) -> bool:
    """Whether the request behind these tries took down as many backends as one may."""
    return sum(RULES[each.outcome].deadly for each in tries) >= MOST_DEATHS


def refusal(tries: Sequence[Try], standing: str) -> Refusal:
    """What the client is told after the last try; `standing` tells how its role stands now."""
    last = tries[-1]
    rule = RULES[last.outcome]
    others = len(tries) - 1
    tried = f", after {others} other{'s' if others > 1 else ''}" if others else ""
    return Refusal(
        rule.code,
        f"{last.id} {rule.words}{tried}; {standing}.",
        retry_after=rule.retry_after,
        retry=False if deadly(tries) else None,
    )
