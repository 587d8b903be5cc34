"""Who goes where and who waits: decisions made when something changes, never by polling."""

from collections.abc import Callable, Hashable
from functools import partial

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rolemesh.core.admission import FairQueue
from rolemesh.core.errors import Refusal
from rolemesh.core.model import Backend, BackendId
from rolemesh.core.routing import Candidate, Decision, Go, Need, No, Random, Score, decide
from rolemesh.gateway.entries import WRITE_RATE, Entry
from rolemesh.gateway.registry import Registry

LOOK_AGAIN = 5.0  # seconds, at a load that outlasts a deadline


@frozen
class Want:
    """One request's wish for a backend.

    `key` and `party` are what its turn is fair by; it waits `until` an instant of the clock.
    `cached` tells what a backend holds of it, see `Registry.candidates`; `output` is about how
    many tokens it will write.
    """

    need: Need
    key: Hashable
    party: Hashable
    until: float
    cached: Callable[[BackendId], tuple[int, int]]
    output: int = 256


@define(eq=False)
class Grant:
    """Leave to send one request to one backend; `release` gives the slot back, once."""

    backend: Backend
    route: str
    scores: tuple[Score, ...]
    waited: float
    cached: int
    _give: Callable[[], None]
    _given: bool = False

    def and_then(self, give: Callable[[], None]) -> None:
        """Give something else back together with the slot."""
        self._give = partial(_both, self._give, give)

    def release(self) -> None:
        if not self._given:
            self._given = True
            self._give()


@define(eq=False)
class _Waiting:
    want: Want
    since: float
    granted: Deferred[Grant]
    late: IDelayedCall | None = None


@define(eq=False)
class Admission:
    """Grants slots of a registry's backends, so that none has more in flight than it has slots."""

    _clock: IReactorTime
    _registry: Registry
    _random: Random
    _queues: dict[str, FairQueue[_Waiting]] = field(factory=dict)
    _pump_due: IDelayedCall | None = None

    def __attrs_post_init__(self) -> None:
        self._registry.on_change.append(self._something_changed)

    def acquire(self, want: Want) -> Deferred[Grant]:
        """Fires with a Grant; fails with a Refusal. Cancelling it leaves the queue."""
        queue = self._queues.get(want.need.role.name)
        if not queue or want.need.slotless:
            decision = self.decide(want)
            if isinstance(decision, Go):
                return succeed(self._grant(want, decision, 0.0))
            if isinstance(decision, No):
                return fail(decision.refusal)
        return self._wait(want)

    def decide(self, want: Want) -> Decision:
        """What would be done with a request now; nothing changes."""
        candidates = self._registry.candidates(want.need.role, want.cached)
        return decide(candidates, want.need, self._random)

    def waiting(self, role: str) -> int:
        """How many requests wait for a role."""
        return len(self._queues.get(role, ()))

    def _wait(self, want: Want) -> Deferred[Grant]:
        role = want.need.role
        queue = self._queues.setdefault(role.name, FairQueue())
        if len(queue) >= role.queue.max:
            return fail(self._saturated(want, queue))
        waiting = _Waiting(want, self._clock.seconds(), Deferred(lambda _: self._leave(waiting)))
        left = max(0.0, want.until - waiting.since)
        waiting.late = self._clock.callLater(left, self._too_late, waiting)
        queue.push(waiting, want.key, want.party)
        self._something_changed()
        return waiting.granted

    def _saturated(self, want: Want, queue: FairQueue[_Waiting]) -> Refusal:
        role = want.need.role
        entries = [entry for _, entry in self._registry.members(role)]
        slots = sum(entry.backend.slots or 0 for entry in entries)
        oldest = max((self._clock.seconds() - each.since for each in queue), default=0.0)
        return Refusal(
            "role_saturated",
            f"The role '{role.name}' has {len(queue)} waiting for {slots} slots; "
            f"the oldest waited {oldest:.0f} s. Send again later, or add a backend.",
            param="model",
            retry_after=max(1.0, _time_to_a_slot(entries)),
        )

    def _leave(self, waiting: _Waiting) -> None:
        queue = self._queues[waiting.want.need.role.name]
        if waiting in queue:
            queue.gone(waiting)
        if waiting.late is not None and waiting.late.active():
            waiting.late.cancel()

    def _too_late(self, waiting: _Waiting) -> None:
        """Its time is up, unless a model is being loaded for it: that stops the clock."""
        decision = self.decide(waiting.want)
        if isinstance(decision, No) and _loads(decision):
            waiting.late = self._clock.callLater(LOOK_AGAIN, self._too_late, waiting)
            return
        queue = self._queues[waiting.want.need.role.name]
        refusal = self._saturated(waiting.want, queue)
        self._leave(waiting)
        waiting.granted.errback(refusal)

    def _something_changed(self) -> None:
        if self._pump_due is None and any(self._queues.values()):
            self._pump_due = self._clock.callLater(0, self._pump)

    def _pump(self) -> None:
        self._pump_due = None
        for role in sorted(self._queues, key=self._oldest):
            while self._serve_one(self._queues[role]):
                pass

    def _oldest(self, role: str) -> float:
        return min((each.since for each in self._queues[role]), default=0.0)

    def _serve_one(self, queue: FairQueue[_Waiting]) -> bool:
        """Let the first go that can; whether one did."""
        for waiting in queue:
            decision = self._decided(waiting)
            if isinstance(decision, Go):
                queue.served(waiting)
                self._leave(waiting)
                waited = self._clock.seconds() - waiting.since
                waiting.granted.callback(self._grant(waiting.want, decision, waited))
                return True
            if isinstance(decision, No) and not _loads(decision):
                self._leave(waiting)
                waiting.granted.errback(decision.refusal)
                return True
            if decision is None or _like_any_other(waiting.want.need):
                return False
        return False

    def _decided(self, waiting: _Waiting) -> Decision | None:
        """The decision for one that waits; where none can be made, it is told why."""
        try:
            return self.decide(waiting.want)
        except Exception:
            self._leave(waiting)
            waiting.granted.errback()
            return None

    def _grant(self, want: Want, decision: Go, waited: float) -> Grant:
        entry = self._registry.get(decision.id)
        assert entry is not None  # decisions are made and carried out in one turn
        give = _nothing
        if not want.need.slotless:
            seconds = _seconds_of(want, decision.to, entry)
            self._registry.take(decision.id, want.need.role.name, seconds)
            give = partial(self._registry.give, decision.id, seconds)
        cached = decision.to.cached
        return Grant(entry.backend, decision.route, decision.scores, waited, cached, give)


def _seconds_of(want: Want, to: Candidate, entry: Entry) -> float:
    """About how long the backend will work for it."""
    unread = max(0, want.need.tokens - to.cached)
    return unread / to.read_rate + want.output / entry.writing.rate(WRITE_RATE)


def _nothing() -> None:
    pass


def _both(one: Callable[[], None], other: Callable[[], None]) -> None:
    one()
    other()


def _loads(decision: No) -> bool:
    return decision.refusal.code == "model_loading"


def _like_any_other(need: Need) -> bool:
    """Whether no place for this one means no place for those behind it."""
    return need.node is None and not need.tried


def _time_to_a_slot(entries: list[Entry]) -> float:
    times = [entry.ahead / max(1, entry.in_flight) for entry in entries if entry.ready]
    return min(times, default=5.0)
