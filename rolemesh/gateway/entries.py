"""What the gateway knows of one backend."""

from attrs import define, evolve, field, frozen

from rolemesh.core.health import Condition, Health
from rolemesh.core.model import Backend, BackendState, Target
from rolemesh.core.pace import Pace
from rolemesh.core.report import BackendReport
from rolemesh.core.sharing import Peak, Share, same_slots, share

READ_RATE = 1000.0  # prompt tokens a second, until a role's backends have shown theirs
WRITE_RATE = 30.0
USUAL_WORK = 256 / WRITE_RATE  # seconds of a request of which nothing is known

# In these there is no server of the node at the address that was told last, but perhaps another's.
_WITHOUT_SERVER = (
    BackendState.STOPPED,
    BackendState.STARTING,
    BackendState.BACKOFF,
    BackendState.CRASH_LOOP,
    BackendState.UNKILLABLE,
    BackendState.GPU_LOST,
)


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

    `backend` is what was `told` of it, filled up with what it says of itself; `server` is the entry
    of `use` that names it, None where a node does; `namesakes` are those that the configuration
    names at the same place. `busy_since` is when the first of the requests
    under way was taken, or the latest one answered.
    """

    backend: Backend
    told: Backend = field(init=False)
    props: Props | None = None
    server: Target | None = None
    namesakes: tuple["Entry", ...] = field(default=(), repr=False)
    leased: bool = True
    node_state: BackendState = BackendState.READY
    report: BackendReport | None = None
    heard: float = 0.0
    draining: bool = False
    health: Health = field(factory=Health)
    in_flight: int = 0
    lately: Peak = field(factory=Peak)
    share: Share = field(factory=Share)
    busy_since: float = 0.0
    ahead: float = 0.0
    reading: Pace = field(factory=Pace)
    writing: Pace = field(factory=Pace)
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

    def count(self, change: int, now: float) -> None:
        """So many more requests of ours are under way there."""
        self.in_flight += change
        self.lately.saw(self.in_flight, now)

    def hear(self, report: BackendReport | None, now: float) -> None:
        """Take in a node's report, or that it gives none."""
        self.report, self.share, self.heard = report, Share(), now
        if report is not None and report.slots_busy is not None:
            told = report.slots_busy + report.waiting
            own = self.lately.lately(now, report.slots_age)
            self.share = share(told, own, self.backend.slots)

    @property
    def work(self) -> float:
        """Seconds of work in front of a new request, that of other gateways included."""
        usual = self.ahead / self.in_flight if self.in_flight else USUAL_WORK
        return self.ahead + self.elsewhere * usual

    @property
    def elsewhere(self) -> int:
        """Requests that hold its slots beside those of this entry: of other gateways, and of ours
        to the same server by another name."""
        shared = (each for each in self.namesakes if same_slots(self.backend, each.backend))
        return self.share.elsewhere + sum(each.in_flight for each in shared)

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
    def runs(self) -> bool:
        """Whether a server of its node may answer there; its key is for no other one."""
        return self.node_state not in _WITHOUT_SERVER

    @property
    def orphaned(self) -> int:
        """Slots that the node reports busy, with nobody of ours waiting for what they make."""
        busy = self.report.slots_busy if self.report is not None else None
        return busy or 0 if not self.in_flight else 0

    def note(self, now: float) -> str:
        """The node's own words for what keeps the backend from serving; empty when nothing does."""
        if not self.leased:
            return "silent: its node has stopped reporting"
        if self.node_state is BackendState.READY:
            return _drained(self.report) if self.draining else ""
        if self.report is None:
            return self.node_state.value
        return _words_of(self.report, self.node_state, now - self.heard)


def _drained(report: BackendReport | None) -> str:
    why = report.draining if report is not None else None
    return f"draining ({why})" if why else "draining"


def _words_of(report: BackendReport, state: BackendState, age: float) -> str:
    words = state.value if not report.progress else f"{state.value}, {report.progress}"
    if report.last_exit is None or state is BackendState.SUSPECT:
        return words
    again = report.last_exit.retry_in
    soon = f", next try in {max(0.0, again - age):.0f} s" if again is not None else ""
    said = f': "{report.last_exit.said}"' if report.last_exit.said else ""
    return f"{words} after an exit ({report.last_exit.reason}{said}){soon}"


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
