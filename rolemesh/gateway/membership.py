"""Backends as a role sees them: which are in it, how many are ready, and what each would cost."""

from collections.abc import Callable, Collection, Iterable, Sequence

from attrs import frozen

from rolemesh.core.model import BackendId, BackendState, Role
from rolemesh.core.routing import Candidate, lacks
from rolemesh.gateway.entries import READ_RATE, Entry

Members = Sequence[tuple[int, Entry]]  # each with its place in the role's order of preference


@frozen
class Standing:
    """A role's backends at a glance. `context` is the least of the ready ones, 0 if unknown."""

    ready: int
    total: int
    context: int
    missing: tuple[str, ...]


def place(entry: Entry, role: Role, announce: bool) -> int | None:
    """A backend's place in a role, None when it is not in it; `announce` lets nodes name roles."""
    if role.name in entry.backend.barred:
        return None
    for at, target in enumerate(role.use):
        if target.url is not None and target.server == entry.server:
            return at
        by_node = target.model is not None and entry.server is None
        if by_node and target.model == entry.backend.model:
            return at
    if announce and role.name in entry.backend.roles:
        return len(role.use)
    return None


def standing(
    role: Role, members: Members, now: float, lost: Collection[BackendId] = ()
) -> Standing:
    """How many of a role's backends are ready, and what the others lack.

    Those that a request has `lost` this moment are not, though no check has shown it yet.
    """
    lacking = [(entry.backend, _lack(entry, role, now, lost)) for _, entry in members]
    ready = [backend for backend, lack in lacking if not lack]
    missing = tuple(f"{backend.id} {lack}" for backend, lack in lacking if lack)
    context = min((backend.context for backend in ready if backend.context), default=0)
    return Standing(len(ready), len(lacking), context, missing)


def _lack(entry: Entry, role: Role, now: float, lost: Collection[BackendId]) -> str:
    backend = entry.backend
    if backend.id in lost:
        return "has just gone away"
    labels = frozenset(backend.labels.items())
    lack = lacks(backend.context, backend.tools, labels, role.require)
    if lack:
        return f"is not in '{role.name}': {lack}"
    return "" if entry.ready else f"is {entry.note(now) or entry.health}"


def candidates(
    role: Role, members: Members, now: float, cached: Callable[[BackendId], tuple[int, int]]
) -> list[Candidate]:
    """A role's backends as one decision sees them; `cached` tells what a backend holds of the
    request, and what of another conversation it would forget, both in tokens."""
    usual = _usual_rate(entry for _, entry in members)
    return [
        _candidate(entry, at, role.name, now, usual, *cached(entry.backend.id))
        for at, entry in members
    ]


def _usual_rate(entries: Iterable[Entry]) -> float:
    """What is expected of a backend that has not shown how fast it reads: the most that another
    has, so that it is tried."""
    rates = (entry.reading.rate(READ_RATE) for entry in entries if entry.reading.seconds)
    return max(rates, default=READ_RATE)


def _candidate(
    entry: Entry, place: int, role: str, now: float, usual_rate: float, cached: int, evicts: int
) -> Candidate:
    """A backend as one decision of a role sees it.

    `usual_rate` is what one is thought to read that was not watched; `cached` and `evicts` are
    tokens.
    """
    backend = entry.backend
    return Candidate(
        backend.id,
        condition=entry.health.condition,
        node_ready=entry.leased and entry.node_state is BackendState.READY,
        draining=entry.draining,
        order=place,
        slots=backend.slots,
        in_flight=entry.in_flight,
        busy=now < entry.busy_until,
        elsewhere=entry.elsewhere,
        context=backend.context,
        model=backend.model,
        tools=backend.tools,
        labels=frozenset(backend.labels.items()),
        warmth=entry.health.warmth(now),
        last_turn=entry.turns.get(role, 0),
        ahead=entry.work,
        read_rate=entry.reading.rate(usual_rate),
        cached=cached,
        evicts=evicts,
        note=entry.note(now),
    )
