"""Which backend answers a request: candidates in, a choice, a wait or a refusal out. All pure.

Scores are estimated seconds until the first token, so lower is better and the policies compare
like with like: what is ahead of the request at a backend, and what it must read that it has not
cached.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import field, frozen

from rolemesh.core.errors import Refusal
from rolemesh.core.health import Condition
from rolemesh.core.model import BackendId, Policy, Requirements, Role
from rolemesh.core.rendezvous import Lot, weight

RETRY_LOADING = 5.0
RETRY_DEAD = 2.0
NEAR = 0.05  # seconds in which two backends are alike
ALIKE = 0.1  # of what the better one costs
FEW = 16  # tokens; a conversation that is pushed out has more
CHANCE = 0.25  # that it was the drawn backend that has read what another gateway sent
BESIDE = 0.05  # of the work under way at a backend that has a free slot


class Random(Protocol):
    """The part of `random.Random` that breaks ties."""

    def random(self) -> float: ...


@frozen
class Candidate:
    """One backend as a request sees it, frozen for the time of one decision.

    `in_flight` is the gateway's own count, `elsewhere` what the node reports busy beyond it; `busy`
    is what the backend itself has just said. `ahead` is the work in front of a new request in
    seconds, `read_rate` prompt tokens a second. `cached` is how many of the request's prompt tokens
    the backend is believed to hold, `evicts` how many of another conversation it would likely
    forget for it. `last_turn` tells when the role last used it, `note` what its node says of it.
    """

    id: BackendId
    condition: Condition = Condition.UP
    node_ready: bool = True
    draining: bool = False
    order: int = 0
    slots: int | None = None
    in_flight: int = 0
    busy: bool = False
    elsewhere: int = 0
    context: int = 0
    model: str | None = None
    tools: bool | None = None
    labels: frozenset[tuple[str, str]] = frozenset()
    warmth: float = 1.0
    last_turn: int = 0
    ahead: float = 0.0
    read_rate: float = 1000.0
    cached: int = 0
    evicts: int = 0
    note: str = ""

    @property
    def full(self) -> bool:
        return self.busy or (
            self.slots is not None and self.in_flight + self.elsewhere >= self.slots
        )


@frozen
class Need:
    """What one request asks of a backend; `tried` are those that failed it already.

    `context` and `model` are what a second try needs: enough room for a prompt that was too long
    for another backend, or the very model that gave the first part of an answer. `slotless` ones
    are answered beside the slots, and wait for none. By its `lot` every gateway draws the same of
    backends that are alike.
    """

    role: Role
    tokens: int = 0
    node: str | None = None
    context: int = 0
    model: str | None = None
    slotless: bool = False
    tried: frozenset[BackendId] = frozenset()
    lot: Lot | None = None


@frozen
class Score:
    """What a candidate would cost, or why it cannot be."""

    id: BackendId
    seconds: float | None = None
    refusal: str = ""


@frozen
class Go:
    """Send it there."""

    to: Candidate
    route: str
    scores: tuple[Score, ...] = field(default=(), repr=False)

    @property
    def id(self) -> BackendId:
        return self.to.id


@frozen
class Wait:
    """Nothing is free now, but something may be soon."""

    why: str
    scores: tuple[Score, ...] = field(default=(), repr=False)


@frozen
class No:
    """Nothing can answer it."""

    refusal: Refusal
    scores: tuple[Score, ...] = field(default=(), repr=False)


Decision = Go | Wait | No


def decide(candidates: Sequence[Candidate], need: Need, random: Random) -> Decision:
    """Where a request goes now, or that it should wait, or why it cannot be answered."""
    judged = [(each, _unfit(each, need)) for each in candidates]
    fit = [each for each, refusal in judged if not refusal]
    refused = tuple(Score(each.id, refusal=why) for each, why in judged if why)
    up = _alive(fit)
    free = [each for each in up if need.slotless or not each.full]
    score = _seconds if need.role.policy is Policy.AFFINITY else _seconds_uncached
    scores = (*(Score(each.id, seconds=score(each, need)) for each in up), *refused)
    if free:
        best, route = _POLICIES[need.role.policy](free, need, random)
        return Go(best, route, scores)
    if up:
        return Wait("every slot is busy", scores)
    if any(each.condition is Condition.UNKNOWN and each.node_ready for each in fit):
        return Wait("a backend is being checked", scores)
    return No(_none_left(fit, refused, need), scores)


def _unfit(candidate: Candidate, need: Need) -> str:
    if candidate.id in need.tried:
        return "it failed this request already"
    if need.node is not None and candidate.id.node != need.node:
        return f"the request is pinned to node '{need.node}'"
    if candidate.draining:
        return "it is draining"
    if need.context and candidate.context < need.context:
        has = f"{candidate.context} tokens per slot" if candidate.context else "of unknown context"
        return f"{has}, the request needs {need.context}"
    if need.model is not None and candidate.model != need.model:
        return "it serves another model"
    return lacks(candidate.context, candidate.tools, candidate.labels, need.role.require)


def lacks(
    context: int,
    tools: bool | None,
    labels: frozenset[tuple[str, str]],
    require: Requirements,
) -> str:
    """What a backend lacks to be in a role, as a clause; empty when it lacks nothing known."""
    if require.context and context and context < require.context:
        return f"{context} tokens per slot, the role requires {require.context}"
    if require.tools and tools is False:
        return "its chat template knows no tools, which the role requires"
    for name, value in require.labels.items():
        if (name, value) not in labels:
            return f"its node has no label {name}={value}, which the role requires"
    return ""


def _alive(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that take new requests; ejected ones only when there is nothing else."""
    ready = [each for each in candidates if each.node_ready]
    up = [each for each in ready if each.condition is Condition.UP]
    return up or [each for each in ready if each.condition is Condition.EJECTED]


def _none_left(fit: Sequence[Candidate], refused: Sequence[Score], need: Need) -> Refusal:
    name = need.role.name
    loading = [each for each in fit if each.condition is Condition.LOADING or _loads(each)]
    if loading:
        progress = "; ".join(f"{each.id}: {each.note or 'loading its model'}" for each in loading)
        return Refusal(
            "model_loading",
            f"The role '{name}' is loading ({progress}). Send again in a few seconds.",
            param="model",
            retry_after=RETRY_LOADING,
        )
    reasons = [f"{each.id} is {each.note or each.condition.value}" for each in fit]
    reasons += [f"{each.id}: {each.refusal}" for each in refused]
    why = "; ".join(reasons) or "no backend serves it"
    return Refusal(
        "role_unavailable",
        f"No backend can answer for the role '{name}': {why}. Try again in {RETRY_DEAD:g} s.",
        param="model",
        retry_after=RETRY_DEAD,
    )


def _loads(candidate: Candidate) -> bool:
    return not candidate.node_ready and candidate.note.startswith(("loading", "starting"))


def _seconds(candidate: Candidate, need: Need) -> float:
    """About how long a request waits for its first token there, and makes others wait.

    Beside a free slot, the work of the others slows this one down, but is not waited for.
    """
    unread = max(0, need.tokens - candidate.cached)
    waits = candidate.ahead / max(1, candidate.slots or 1)
    if candidate.slots and not candidate.full:
        waits *= BESIDE
    again = candidate.evicts / candidate.read_rate
    return (waits + unread / candidate.read_rate) / candidate.warmth + again


def _seconds_uncached(candidate: Candidate, need: Need) -> float:
    ahead = candidate.ahead / max(1, candidate.slots or 1)
    return (ahead + need.tokens / candidate.read_rate) / candidate.warmth


def _least(
    free: Sequence[Candidate], cost: Callable[[Candidate], float], random: Random
) -> Candidate:
    """The cheapest; among equals any, never always the first one."""
    return min(free, key=lambda each: (cost(each), random.random()))


def _first(free: Sequence[Candidate], _need: Need, _random: Random) -> tuple[Candidate, str]:
    return min(free, key=lambda each: (each.order, str(each.id))), "first"


def _round_robin(free: Sequence[Candidate], _need: Need, random: Random) -> tuple[Candidate, str]:
    return _least(free, lambda each: each.last_turn, random), "round-robin"


def _least_loaded(free: Sequence[Candidate], need: Need, random: Random) -> tuple[Candidate, str]:
    return _least(free, lambda each: _seconds_uncached(each, need), random), "least-loaded"


def _affinity(free: Sequence[Candidate], need: Need, random: Random) -> tuple[Candidate, str]:
    best = _least(free, lambda each: _seconds(each, need), random)
    chosen = best if need.lot is None else _agreed(free, best, need, need.lot)
    if chosen.cached:
        return chosen, f"affinity; cached={chosen.cached}"
    if any(each.cached for each in free):
        return chosen, "affinity gave way to load" if chosen is best else "affinity; drawn"
    return chosen, "affinity; new"


def _agreed(free: Sequence[Candidate], best: Candidate, need: Need, lot: Lot) -> Candidate:
    """The best, or one that is as good where another gateway may know more than this one does.

    What is new is drawn from those that have no more to do and hold no less. A conversation that
    went on elsewhere costs a part of what the drawn backend need not read again.
    """
    in_turn = sorted(free, key=lambda each: weight(lot, each.id), reverse=True)
    cost = _seconds(best, need)
    if lot.heard and all(each.cached <= lot.opening for each in free):
        missed = max(0, lot.heard - best.cached) / best.read_rate
        if _seconds(in_turn[0], need) <= cost + CHANCE * missed:
            return in_turn[0]
    alike = cost * (1 + ALIKE) + NEAR
    return next(each for each in in_turn if _seconds(each, need) <= alike and _no_worse(each, best))


def _no_worse(candidate: Candidate, best: Candidate) -> bool:
    holds = candidate.cached >= best.cached and candidate.evicts <= best.evicts + FEW
    return holds and _occupied(candidate) <= _occupied(best)


def _occupied(candidate: Candidate) -> float:
    return (candidate.in_flight + candidate.elsewhere) / (candidate.slots or 1)


_POLICIES: dict[Policy, Callable[[Sequence[Candidate], Need, Random], tuple[Candidate, str]]] = {
    Policy.FIRST: _first,
    Policy.ROUND_ROBIN: _round_robin,
    Policy.LEAST_LOADED: _least_loaded,
    Policy.AFFINITY: _affinity,
}
