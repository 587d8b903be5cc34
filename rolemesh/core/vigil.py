"""Whether a llama-server makes progress, judged by what moves and never by what it says."""

from collections.abc import Hashable

from attrs import frozen

from rolemesh.core.lifecycle import Event
from rolemesh.core.model import BackendState as State

LOOK_EVERY = 2.0  # seconds
LONGEST_STEP = 2 * LOOK_EVERY  # of one look: a machine that slept saw nothing stand still
CPU_STEP = 2.0  # seconds of processor time that are work; to be asked how it is takes less


@frozen
class Patience:
    """How long nothing may move, in seconds: in service until it is suspect and until it is
    replaced, and while it loads until it is killed."""

    suspect: float = 30.0
    wedged: float = 120.0
    hung: float = 300.0


@frozen
class Signs:
    """What the machine sees of a process: bytes it has read, holds in memory and on its GPUs,
    seconds of processor time; `utilization` of its GPUs, None where nobody tells."""

    read: int = 0
    resident: int = 0
    gpu_memory: int = 0
    cpu: float = 0.0
    utilization: float | None = None

    def effort(self) -> Hashable:
        """Changes from look to look while the process works, as far as can be told.

        A hung driver burns processor time, so where a GPU tells its load, that alone counts.
        """
        if self.utilization is None:
            return int(self.cpu / CPU_STEP)
        return object() if self.utilization > 0 else None


@frozen
class Pulse:
    """What a server said of its slots; `busy` None is silence, or an answer without slots.

    `produced` counts the work of each busy slot; `reading`: one of them has written nothing yet,
    and a long prompt may stand still in these numbers; `waiting` requests got no slot yet.
    """

    answered: bool = False
    busy: int | None = None
    produced: tuple[Hashable, ...] = ()
    reading: bool = False
    waiting: int = 0

    def progress(self, signs: Signs) -> Hashable:
        """Changes from look to look unless it should work and does not."""
        if not self.answered:
            return signs.effort()
        if not self.busy:
            return object()
        return (self.produced, signs.effort() if self.reading else None)


def loading_progress(signs: Signs, lines: int) -> Hashable:
    """Changes while a model loads; `lines` is how much it has logged."""
    return (signs.read, signs.resident, signs.gpu_memory, lines)


_NOTHING_YET = object()


@frozen
class Vigil:
    """For how long one progress has been seen, in seconds."""

    progress: Hashable = _NOTHING_YET
    still: float = 0.0

    def seeing(self, progress: Hashable, elapsed: float) -> "Vigil":
        """After another look, `elapsed` seconds after the last one."""
        if progress != self.progress:
            return Vigil(progress)
        return Vigil(progress, self.still + min(elapsed, LONGEST_STEP))


def verdict(state: State, still: float, silent: float, patience: Patience) -> Event | None:
    """What it means in this state that nothing has moved for `still` seconds, and that no question
    was answered for `silent` ones. Who is silent and works gets nothing new, and is not ended."""
    match state:
        case State.STARTING | State.LOADING:
            return Event.HUNG if still >= patience.hung else None
        case State.READY:
            return Event.STALLED if max(still, silent) >= patience.suspect else None
        case State.SUSPECT if still >= patience.wedged:
            return Event.WEDGED
        case State.SUSPECT if max(still, silent) < patience.suspect:
            return Event.MOVED
        case _:
            return None
