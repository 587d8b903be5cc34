"""What a llama-server's life is made with: the words between its supervisor and the rest."""

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from rolemesh.config.node import Restart, Run
from rolemesh.core.endings import Ending, Reason
from rolemesh.core.vigil import Patience, Pulse, Signs
from rolemesh.node.host import base_url
from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Child, Exit


@frozen
class Door:
    """Where a server of ours answers, and what it knows: its key and its alias."""

    host: str
    port: int
    alias: str
    key: str = field(repr=False)

    @property
    def url(self) -> str:
        return base_url(self.host, self.port)


class Process(Protocol):
    """A server's process, a child of ours or adopted."""

    pid: int

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it and all that it forked."""

    def leave(self) -> None:
        """Let it go on without us."""


@frozen
class Taken:
    """A server that an earlier agent left running: where it answers, its process, its age in
    seconds, its GPUs, the words that its log must not show, and its last lines. `watch` has its
    end told."""

    door: Door
    process: "Watched"
    age: float
    gpus: tuple[str, ...] = ()
    secrets: Sequence[str] = ()
    tail: Sequence[bytes] = ()


class Watched(Process, Protocol):
    """A process that is not our child."""

    def watch(self) -> None:
        """Tell its end from now on, and what it writes until then."""


@frozen
class Facts:
    """What a ready server says of itself. `context` is in tokens per slot; 0 is unknown."""

    context: int = 0
    slots: int = 0
    build: str = ""


class CannotStart(Exception):
    """No process can be made now."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.ending = Ending(reason, detail)


class Unkillable(CannotStart):
    """A process of an earlier start is still there."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.UNKILLABLE, detail)


class Stranger(Exception):
    """Whoever answers on the port is not the server that we started there."""


class Ground(Protocol):
    """Where servers run; `node.machine.Machine` is this machine."""

    async def adopt(
        self, run: Run, cutter: LineCutter, exited: Callable[[Exit], None]
    ) -> Taken | None:
        """Take over what an earlier agent left running for it, None where there is nothing; its
        lines go to the cutter, its end is told once."""

    def keeps(self, run: Run) -> bool:
        """Whether its process may go on without us."""

    async def make_room(self, run: Run) -> None:
        """End what an earlier start left, and see that there is a model and a GPU to run it on.

        :raises Unkillable: when what is left would not go.
        :raises CannotStart: when it cannot run here now.
        """

    def open_door(self, run: Run) -> Door:
        """A free place to answer, with a fresh key.

        :raises CannotStart: when there is none.
        """

    def run_server(self, run: Run, door: Door, child: Child) -> list[str]:
        """Run it there; gives the words that its log must not show.

        :raises CannotStart: when no process can be made.
        """

    async def record(self, run: Run, door: Door, pid: int) -> None:
        """Write down which process it is, as far as the disk lets us."""

    def clean_up(self, run: Run) -> None:
        """Its process is gone; end what it left, and forget it."""

    def signs(self, run: Run, pid: int) -> Signs:
        """What shows whether it works."""

    def lost_gpu(self, run: Run) -> str:
        """Why a GPU that it uses is lost, empty while none is."""

    def note(self, run: Run) -> str:
        """What may keep it from fitting, empty where nothing does."""

    def kernel_kills(self) -> int:
        """How often the kernel killed for want of memory until now."""


class Asking(Protocol):
    """Who asks servers how they are; `node.probe.Probe` does it by HTTP."""

    async def until_ready(self, door: Door, loading: Callable[[], None]) -> Facts:
        """Ask until it is ready; `loading` is called whenever it says that it loads.

        :raises Stranger: when another program answers.
        """

    async def watch_slots(self, door: Door, tell: Callable[[Pulse], None]) -> None:
        """Tell for ever what its slots do."""


@frozen
class Means:
    """All that a life needs. `grace` is in seconds, `random` gives 0 to 1."""

    clock: IReactorTime
    ground: Ground
    probe: Asking
    restart: Restart
    grace: float
    random: Callable[[], float]
    patience: Patience = field(factory=Patience)
