"""The one mutable map of backends: reports, checks and outcomes go in, candidates come out."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from twisted.internet.interfaces import IReactorTime

from rolemesh.core.health import Condition, Health, Sign, step
from rolemesh.core.model import Backend, BackendId, BackendState, Role, Target
from rolemesh.core.report import BackendReport
from rolemesh.core.routing import Candidate
from rolemesh.core.sharing import at_one_place
from rolemesh.core.usage import Timings
from rolemesh.gateway.entries import Entry, Props
from rolemesh.gateway.membership import Standing, candidates, place, standing

BUSY_PAUSE = 0.5  # seconds


class Registry:
    """Backends by id.

    `on_change` callbacks run after anything that can let a waiting request go on; `on_backend`
    callbacks run with each new entry and with one whose node has a server again, `on_gone` with the
    id of each one that left, `on_down` with that of each one whose server is gone or another, or
    whose checks no longer pass, and `on_condition` with that of each one whose condition is new.
    """

    def __init__(self, clock: IReactorTime, announce: bool = True) -> None:
        self._clock = clock
        self._announce = announce
        self._entries: dict[BackendId, Entry] = {}
        self._members: dict[str, list[tuple[int, Entry]]] = {}
        self._left_behind: Counter[BackendId] = Counter()  # requests at backends that have gone
        self._turn = 0
        self.on_change: list[Callable[[], None]] = []
        self.on_backend: list[Callable[[Entry], None]] = []
        self.on_gone: list[Callable[[BackendId], None]] = []
        self.on_down: list[Callable[[BackendId], None]] = []
        self.on_condition: list[Callable[[BackendId], None]] = []

    # What is there

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries.values()))

    def get(self, id: BackendId) -> Entry | None:
        return self._entries.get(id)

    def announced(self) -> frozenset[str]:
        """The roles that nodes speak of."""
        if not self._announce:
            return frozenset()
        return frozenset(name for entry in self._entries.values() for name in entry.backend.roles)

    def seen(self, role: Role) -> bool:
        """Whether it is known of any backend of a role, in this life of the gateway, how it is."""
        return any(
            entry.health.condition is not Condition.UNKNOWN or not entry.runs
            for _, entry in self.members(role)
        )

    def members(self, role: Role) -> list[tuple[int, Entry]]:
        """The backends of a role, each with its place in the role's order of preference."""
        found = self._members.get(role.name)
        if found is None:
            entries = self._entries.values()
            placed = ((place(entry, role, self._announce), entry) for entry in entries)
            found = [(at, entry) for at, entry in placed if at is not None]
            self._members[role.name] = found
        return found

    def standing(self, role: Role, lost: Collection[BackendId] = ()) -> Standing:
        """How a role stands; without those that a request has `lost` this moment."""
        return standing(role, self.members(role), self._clock.seconds(), lost)

    def state(self, entry: Entry) -> str:
        """How a backend is: its node's words for what is in its way, else what checks show."""
        return entry.note(self._clock.seconds()) or str(entry.health)

    def candidates(
        self, role: Role, cached: Callable[[BackendId], tuple[int, int]]
    ) -> list[Candidate]:
        """A role's backends as one decision sees them; `cached` tells what a backend holds of the
        request, and what of another conversation it would forget, both in tokens."""
        return candidates(role, self.members(role), self._clock.seconds(), cached)

    # What is told

    def set_static(self, backends: Mapping[Target, Backend]) -> None:
        """Take in the configuration's own servers; those that changed start anew."""
        before = {entry.server: entry for entry in self if entry.server is not None}
        for server, entry in before.items():
            if backends.get(server) is None or backends[server].id != entry.backend.id:
                self._remove(entry.backend.id)
        for server, backend in backends.items():
            kept = before.get(server)
            if kept is None or kept.backend.id != backend.id:
                self._put(Entry(backend, server=server))
            else:
                kept.tell(backend)
        self._find_namesakes()
        self._regrouped()

    def report(self, node: str, told: Iterable[tuple[Backend, BackendReport | None]]) -> None:
        """Take in all the backends of a node, with its words on them; those that it names no
        longer leave."""
        named = set()
        for backend, report in told:
            self._report(backend, report)
            named.add(backend.id)
        for id in tuple(self._entries):
            if id.node == node and id not in named:
                self._remove(id)
        self._regrouped()

    def silence(self, node: str) -> None:
        """A node's lease is over: its backends take nothing new."""
        for entry in self:
            if entry.backend.id.node == node and entry.leased:
                entry.leased = False
                self._changed()

    def _report(self, backend: Backend, report: BackendReport | None) -> None:
        entry = self._entries.get(backend.id)
        moved = entry is not None and entry.backend.base_url != backend.base_url
        if moved:
            self._tell(self.on_gone, backend.id)
        state = BackendState(report.state) if report else BackendState.READY
        if entry is None or moved:
            in_flight = entry.in_flight if entry else 0
            entry = Entry(backend, node_state=state, in_flight=in_flight)
            self._put(entry)
        ran = entry.runs
        if state is BackendState.READY and entry.node_state is not BackendState.READY:
            entry.health = Health(since=self._clock.seconds())  # a new process: judged afresh
            self._tell(self.on_down, backend.id)
        entry.tell(backend)
        entry.hear(report, self._clock.seconds())
        entry.node_state, entry.leased = state, True
        entry.draining = report is not None and report.draining is not None
        if entry.runs is not ran:
            self._began_or_ended(entry)

    def _began_or_ended(self, entry: Entry) -> None:
        """What was seen of one process tells nothing of the next."""
        entry.health = Health(since=self._clock.seconds())
        if entry.runs:
            self._announce_entry(entry)
        else:
            self._tell(self.on_down, entry.backend.id)

    def drain(self, node: str, backend: str | None, draining: bool) -> None:
        """Take in at once what a node's next report will say of one backend, or of all."""
        for entry in self:
            if entry.backend.id.node == node and backend in (None, entry.backend.id.backend):
                entry.draining = draining
        self._changed()

    def read(self, id: BackendId, props: Props) -> None:
        """Fill in what a llama-server says of itself, where nobody else has said it."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.read(props)
            self._changed()

    def sign(self, id: BackendId, sign: Sign) -> None:
        """Take in what a check or a request showed."""
        entry = self._entries.get(id)
        if entry is None:
            return
        before, now = entry.health.condition, self._clock.seconds()
        entry.health = step(entry.health, sign, now)
        if sign is Sign.SERVED:
            entry.busy_since = now
        if entry.health.condition is not before:
            if entry.health.condition is Condition.DOWN:
                self._tell(self.on_down, id)
            self._tell(self.on_condition, id)
            self._changed()

    def tick(self) -> None:
        """Let ejections and pauses end."""
        now = self._clock.seconds()
        for entry in self:
            if entry.health.condition is Condition.EJECTED and now >= entry.health.until:
                self.sign(entry.backend.id, Sign.ELAPSED)
            if entry.busy_until and now >= entry.busy_until:
                entry.busy_until = 0.0
                self._changed()

    # What is under way

    def take(self, id: BackendId, role: str, seconds: float) -> None:
        """Count a request of about `seconds` of work in."""
        entry = self._entries[id]
        self._turn += 1
        entry.turns[role] = self._turn
        now = self._clock.seconds()
        if not entry.in_flight:
            entry.busy_since = now
        entry.count(+1, now)
        entry.ahead += seconds

    def give(self, id: BackendId, seconds: float) -> None:
        """Count it out again."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.count(-1, self._clock.seconds())
            entry.ahead = max(0.0, entry.ahead - seconds) if entry.in_flight else 0.0
        else:
            self._left_behind -= Counter([id])
        self._changed()

    def busy(self, id: BackendId) -> None:
        """A backend has no room although by our count it has; it is left alone for a moment."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.busy_until = self._clock.seconds() + BUSY_PAUSE

    def learn(self, id: BackendId, timings: Timings) -> None:
        """Take in how fast a backend was."""
        entry = self._entries.get(id)
        if entry is not None:
            entry.reading = entry.reading.after(timings.prompt_n, timings.prompt_ms / 1000)
            entry.writing = entry.writing.after(timings.predicted_n, timings.predicted_ms / 1000)

    # Inside

    def _put(self, entry: Entry) -> None:
        entry.busy_since = now = self._clock.seconds()
        entry.count(self._left_behind.pop(entry.backend.id, 0), now)
        self._entries[entry.backend.id] = entry
        self._members.clear()
        self._announce_entry(entry)

    def _find_namesakes(self) -> None:
        named = [entry for entry in self if entry.server is not None]
        for entry in named:
            found = (each for each in named if at_one_place(each.backend, entry.backend))
            entry.namesakes = tuple(each for each in found if each is not entry)

    def _announce_entry(self, entry: Entry) -> None:
        for tell in self.on_backend:
            tell(entry)

    def _remove(self, id: BackendId) -> None:
        entry = self._entries.pop(id, None)
        if entry is not None and entry.in_flight:
            self._left_behind[id] = entry.in_flight
        self._members.clear()
        self._tell(self.on_gone, id)

    @staticmethod
    def _tell(listeners: Iterable[Callable[[BackendId], None]], id: BackendId) -> None:
        for tell in listeners:
            tell(id)

    def _regrouped(self) -> None:
        """Which backend is in which role may have changed."""
        self._members.clear()
        self._changed()

    def _changed(self) -> None:
        for tell in self.on_change:
            tell()
