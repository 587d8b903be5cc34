"""Whether this process may take on more work, by the memory that it has left."""

from pathlib import Path

from attrs import frozen
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rolemesh.core.errors import Refusal

LOOK_EVERY = 1.0  # seconds
FULL, EASED = 0.80, 0.75  # of what may be used: refuse from the one on, and no more below the other
_PROC = Path("/proc/self")
_GROUPS = Path("/sys/fs/cgroup")


@frozen
class Memory:
    """Bytes that are used, and that may be; None when nothing bounds them."""

    used: int
    most: int | None

    @property
    def share(self) -> float:
        return self.used / self.most if self.most else 0.0


class Pressure(Service):
    """Looks at the memory of its own control group, or at its own share of `most` bytes, and
    refuses new requests while little is left, before the kernel ends all that are under way."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, most: int | None = None, proc: Path = _PROC, root: Path = _GROUPS
    ) -> None:
        self._most = most
        self._proc = proc
        self._root = root
        self._looking = LoopingCall(self.look)
        self._looking.clock = clock
        self._memory = Memory(0, None)
        self.full = False

    def startService(self) -> None:
        super().startService()
        self._looking.start(LOOK_EVERY)

    def stopService(self) -> None:
        super().stopService()
        self._looking.stop()

    def check(self) -> None:
        """Refuse a new request while memory is short.

        :raises Refusal: `role_unavailable`, with the figures.
        """
        if self.full:
            raise Refusal(
                "role_unavailable",
                f"the gateway is short of memory ({_shown(self._memory)}) and takes no new"
                " requests; those under way go on; try again",
                retry_after=2 * LOOK_EVERY,
            )

    def look(self) -> None:
        """Measure once."""
        self._memory = memory = max(self._ours(), self._group(), key=lambda each: each.share)
        full = memory.share >= (EASED if self.full else FULL)
        if full != self.full:
            self.log.warn(
                "memory is short: {memory}; new requests are refused"
                if full
                else "memory is no longer short: {memory}",
                memory=_shown(memory),
            )
        self.full = full

    def _ours(self) -> Memory:
        return Memory(_resident(self._proc), self._most)

    def _group(self) -> Memory:
        """The tightest of the groups that this process is in, without what the kernel can drop."""
        groups = (Memory(_working_set(each), _bound(each)) for each in self._own_groups())
        return max(groups, key=lambda each: each.share, default=Memory(0, None))

    def _own_groups(self) -> list[Path]:
        line = next((each for each in _lines(self._proc / "cgroup") if each.startswith("0::")), "")
        own = self._root / line.removeprefix("0::").strip("/")
        inside = [own, *own.parents]
        return [each for each in inside if each.is_relative_to(self._root)]


def _shown(memory: Memory) -> str:
    return f"{memory.used >> 20} of {(memory.most or 0) >> 20} MiB used"


def _resident(proc: Path) -> int:
    """Bytes; 0 where it cannot be told."""
    for line in _lines(proc / "status"):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _working_set(group: Path) -> int:
    used = _number(group / "memory.current") or 0
    for line in _lines(group / "memory.stat"):
        if line.startswith("inactive_file "):
            return max(0, used - int(line.split()[1]))
    return used


def _bound(group: Path) -> int | None:
    return _number(group / "memory.max")


def _number(file: Path) -> int | None:
    [text] = _lines(file)[:1] or [""]
    return int(text) if text.isdigit() else None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
