"""What the gateway knows of one backend, of one node, and of how a role stands."""

from collections.abc import Mapping

from attrs import define, evolve, field, frozen

from rolemesh.core.health import Condition, Health
from rolemesh.core.model import Backend, BackendId, BackendState
from rolemesh.core.report import BackendReport, GpuReport, HostReport
from rolemesh.core.routing import Candidate

READ_RATE = 1000.0  # prompt tokens a second, until a backend has shown its own
WRITE_RATE = 30.0


@frozen
class Props:
    """What a llama-server says of itself; None, and a context of 0, are what it did not say."""

    slots: int | None = None
    context: int = 0
    build: str = ""
    tools: bool | None = None
    alias: str | None = None


@define(eq=False)
class Entry:
    """What the gateway knows of one backend now. Only the registry writes it.

    `backend` is what was `told` of it, filled up with what it says of itself.
    """

    backend: Backend
    told: Backend = field(init=False)
    props: Props | None = None
    url: str | None = None
    leased: bool = True
    node_state: BackendState = BackendState.READY
    report: BackendReport | None = None
    draining: bool = False
    health: Health = field(factory=Health)
    in_flight: int = 0
    taken: float = 0.0
    ahead: float = 0.0
    read_rate: float | None = None
    write_rate: float | None = None
    turns: dict[str, int] = field(factory=dict)
    busy_until: float = 0.0
    mismatches: int = 0

    def __attrs_post_init__(self) -> None:
        self.told = self.backend

    def tell(self, told: Backend) -> None:
        """Take in what a node or the configuration says."""
        self.told, self.backend = told, _filled(told, self.props)

    def read(self, props: Props) -> None:
        """Take in what the server itself says."""
        self.props, self.backend = props, _filled(self.told, props)

    @property
    def alias(self) -> str | None:
        """The name that the server itself gives its model."""
        return self.props.alias if self.props is not None else None

    @property
    def ready(self) -> bool:
        """Whether new requests may go there."""
        routable = self.leased and self.node_state is BackendState.READY and not self.draining
        return routable and self.health.condition in (Condition.UP, Condition.EJECTED)

    @property
    def orphaned(self) -> int:
        """Slots that the node reports busy, with nobody of ours waiting for what they make."""
        busy = self.report.slots_busy if self.report is not None else None
        return busy or 0 if not self.in_flight else 0

    def note(self) -> str:
        """The node's own words for what keeps the backend from serving; empty when nothing does."""
        if not self.leased:
            return "silent: its node has stopped reporting"
        if self.node_state is BackendState.READY:
            return _drained(self.report) if self.draining else ""
        if self.report is None:
            return self.node_state.value
        return _words_of(self.report, self.node_state)


def _drained(report: BackendReport | None) -> str:
    why = report.draining if report is not None else None
    return f"draining ({why})" if why else "draining"


def _words_of(report: BackendReport, state: BackendState) -> str:
    words = state.value if not report.progress else f"{state.value}, {report.progress}"
    if report.last_exit is None or state is BackendState.SUSPECT:
        return words
    again = report.last_exit.retry_in
    soon = f", next try in {again:.0f} s" if again is not None else ""
    said = f': "{report.last_exit.said}"' if report.last_exit.said else ""
    return f"{words} after an exit ({report.last_exit.reason}{said}){soon}"


@define(eq=False)
class Node:
    """One machine that registered. `until` ends its lease, None where checks are the lease.

    `heard` is False while all we know of it is from an earlier life of the gateway.
    """

    name: str
    plain: bool
    instance: str = ""
    generation: int = 0
    until: float | None = None
    seen: float = 0.0
    labels: Mapping[str, str] = field(factory=dict)
    gpus: tuple[GpuReport, ...] = ()
    host: HostReport | None = None
    version: str = ""
    backends: tuple[BackendId, ...] = ()
    heard: bool = True


@frozen
class Standing:
    """A role's backends at a glance. `context` is the least of the ready ones, 0 if unknown."""

    ready: int
    total: int
    context: int
    missing: tuple[str, ...]


def candidate(
    entry: Entry, place: int, role: str, now: float, usual_rate: float, cached: int, evicts: int
) -> Candidate:
    """A backend as one decision of a role sees it.

    `usual_rate` is taken for one that has not shown how fast it reads; `cached` and `evicts` are
    tokens.
    """
    backend, report = entry.backend, entry.report
    busy = report.slots_busy if report is not None else None
    return Candidate(
        backend.id,
        condition=entry.health.condition,
        node_ready=entry.leased and entry.node_state is BackendState.READY,
        draining=entry.draining,
        order=place,
        slots=backend.slots,
        in_flight=entry.in_flight,
        busy=now < entry.busy_until,
        elsewhere=max(0, busy - entry.in_flight) if busy is not None else 0,
        context=backend.context,
        model=backend.model,
        tools=backend.tools,
        labels=frozenset(backend.labels.items()),
        warmth=entry.health.warmth(now),
        last_turn=entry.turns.get(role, 0),
        ahead=entry.ahead,
        read_rate=entry.read_rate or usual_rate,
        cached=cached,
        evicts=evicts,
        note=entry.note(),
    )


def _filled(told: Backend, props: Props | None) -> Backend:
    if props is None:
        return told
    return evolve(
        told,
        slots=told.slots if told.slots is not None else props.slots,
        context=told.context or props.context,
        build=told.build or props.build,
        llama_server=True,
        tools=props.tools,
    )
