"""A ground without processes and a probe without HTTP, for lives in memory."""

from collections.abc import Callable

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from rolemesh.config.node import Restart, Run
from rolemesh.core.endings import Reason
from rolemesh.core.vigil import Pulse, Signs
from rolemesh.node.logs import LineCutter
from rolemesh.node.means import CannotStart, Door, Facts, Means, Taken, Unkillable
from rolemesh.node.process import Child, Exit


class FakeTransport:
    """A process that exists only by its signals."""

    pid = None

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.gone = False

    def closeStdin(self) -> None:
        """There is none."""

    def loseConnection(self) -> None:
        """There are no pipes."""

    def signalProcess(self, number: int) -> None:
        if self.gone:
            raise ProcessExitedAlready()
        self.signals.append(int(number))


class FakeProcess:
    """One start of a server, seen from outside."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._transport = FakeTransport()
        child.makeConnection(self._transport)

    @property
    def signals(self) -> list[int]:
        return self._transport.signals

    def say(self, *lines: bytes) -> None:
        for line in lines:
            self._child.childDataReceived(2, line + b"\n")

    def tell(self, data: bytes) -> None:
        self._child.childDataReceived(1, data)

    def exit(self, code: int | None = 0, signal: int | None = None) -> None:
        self._transport.gone = True
        clean = code == 0 and signal is None
        why = ProcessDone(0) if clean else ProcessTerminated(code, signal, 0)
        self._child.processExited(Failure(why))


@define
class FakeGround:
    """Runs nothing and notes everything; `refuse` holds what the next starts fail with, `left` is
    what outlives SIGKILL, `lost` the GPU that is lost, `noted` what may not fit, `shown` what the
    process shows."""

    processes: list[FakeProcess] = field(factory=list)
    doors: list[Door] = field(factory=list)
    refuse: list[CannotStart] = field(factory=list)
    kills: int = 0
    shown: Signs = field(factory=Signs)
    lost: str = ""
    noted: str = ""
    left: str = ""
    taken: Taken | None = None
    keeping: bool = False
    recorded: list[int] = field(factory=list)
    cleaned: list[str] = field(factory=list)

    async def adopt(
        self,
        run: Run,  # noqa: ARG002
        cutter: LineCutter,  # noqa: ARG002
        exited: Callable[[Exit], None],  # noqa: ARG002
    ) -> Taken | None:
        taken, self.taken = self.taken, None
        return taken

    def keeps(self, run: Run) -> bool:  # noqa: ARG002
        return self.keeping

    async def make_room(self, run: Run) -> None:  # noqa: ARG002
        if self.left:
            raise Unkillable(self.left)
        if self.lost:
            raise CannotStart(Reason.GPU_LOST, self.lost)

    async def record(self, run: Run, door: Door, pid: int) -> None:  # noqa: ARG002
        self.recorded.append(len(self.processes))

    def clean_up(self, run: Run) -> None:
        self.cleaned.append(run.id)

    def signs(self, run: Run, pid: int) -> Signs:  # noqa: ARG002
        return self.shown

    def lost_gpu(self, run: Run) -> str:  # noqa: ARG002
        return self.lost

    def note(self, run: Run) -> str:  # noqa: ARG002
        return self.noted

    def open_door(self, run: Run) -> Door:
        door = Door("127.0.0.1", 18100, run.model, f"key-{len(self.doors)}")
        self.doors.append(door)
        return door

    def run_server(self, run: Run, door: Door, child: Child) -> list[str]:  # noqa: ARG002
        if self.refuse:
            raise self.refuse.pop(0)
        self.processes.append(FakeProcess(child))
        return [door.key]

    def kernel_kills(self) -> int:
        return self.kills


class FakeProbe:
    """Answers when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Door] = []
        self.cancelled = 0
        self.loading: Callable[[], None] = lambda: None
        self.tell: Callable[[Pulse], None] = lambda _: None
        self.ready: Deferred[Facts] = Deferred()

    async def until_ready(self, door: Door, loading: Callable[[], None]) -> Facts:
        self.asked.append(door)
        self.loading = loading
        self.ready = Deferred(self._count_cancel)
        return await self.ready

    async def watch_slots(self, door: Door, tell: Callable[[Pulse], None]) -> None:  # noqa: ARG002
        self.tell = tell
        await Deferred(self._count_cancel)

    def _count_cancel(self, _: object) -> None:
        self.cancelled += 1


def means(clock: Clock, ground: FakeGround, probe: FakeProbe) -> Means:
    """A life with a grace of ten seconds and no jitter."""
    return Means(clock, ground, probe, Restart(), 10.0, lambda: 0.0)
