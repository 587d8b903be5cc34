"""What Linux tells of processes under /proc; elsewhere there is nothing to be read, and no more.

Only `carries` and `variable` can wait: a process that the kernel holds may hold its own memory.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from rolemesh.core.vigil import Signs

PROC = Path("/proc")
VARIABLE = "ROLEMESH_INSTANCE"  # in the environment of all that we start

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@frozen
class Process:
    """One process, told from any later one of its pid by `started`, in ticks since the boot."""

    pid: int
    started: int
    parent: int = 0
    session: int = 0
    state: str = "R"
    cpu: float = 0.0

    @property
    def same(self) -> tuple[int, int]:
        return self.pid, self.started

    @property
    def ended(self) -> bool:
        """Whether only its parent's notice is missing."""
        return self.state in "ZX"

    @property
    def held(self) -> bool:
        """Whether the kernel holds it now."""
        return self.state == "D"


def boot_id() -> str:
    """Names this boot of the machine; empty where it has no name."""
    with suppress(OSError):
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    return ""


def process(pid: int) -> Process | None:
    """The process of that pid, None when there is none."""
    with suppress(OSError, ValueError, IndexError):
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / _TICKS
        return Process(pid, int(fields[19]), int(fields[1]), int(fields[3]), fields[0], cpu)
    return None


def processes() -> Iterator[Process]:
    """All processes of this user."""
    user = os.geteuid()
    with suppress(OSError):
        for entry in os.scandir(PROC):
            if entry.name.isdigit() and _owner(entry) == user:
                found = process(int(entry.name))
                if found is not None:
                    yield found


def _owner(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_uid
    except OSError:
        return -1


def carries(found: Process, tag: str) -> bool:
    """Whether our variable in its environment is that tag, or begins with it where it ends in `:`.

    A process that the kernel holds is not asked.
    """
    if found.held or found.ended:
        return False
    with suppress(OSError):
        environment = b"\0" + (PROC / str(found.pid) / "environ").read_bytes()
        wanted = f"\0{VARIABLE}={tag}".encode()
        return wanted + (b"" if tag.endswith(":") else b"\0") in environment
    return False


def variable(found: Process, name: str) -> str | None:
    """What stands under a name in the environment that a process was started with."""
    with suppress(OSError):
        for each in (PROC / str(found.pid) / "environ").read_bytes().split(b"\0"):
            key, equals, value = each.partition(b"=")
            if equals and key == name.encode():
                return value.decode(errors="replace")
    return None


def age(found: Process) -> float:
    """Seconds since it was started, also those that the machine slept."""
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - found.started / _TICKS)


def opened(found: Process) -> int | None:
    """A handle on this very process, None when it is gone, whoever has its pid now."""
    with suppress(OSError):
        handle = os.pidfd_open(found.pid)
        now = process(found.pid)
        if now is not None and now.same == found.same and not now.ended:
            return handle
        os.close(handle)
    return None


def kill(found: Process) -> None:
    """SIGKILL to this very process, and to none that has its pid now."""
    with suppress(OSError):
        handle = os.pidfd_open(found.pid)
        try:
            now = process(found.pid)
            if now is not None and now.same == found.same:
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def signs(pid: int) -> Signs:
    """What its memory, its reading and its processor time show; zeros where nothing is told."""
    found = process(pid)
    return Signs(_read_bytes(pid), _resident(pid), cpu=found.cpu if found else 0.0)


def _read_bytes(pid: int) -> int:
    """From disks and through the page cache: a model may be in either."""
    with suppress(OSError, ValueError):
        lines = (PROC / str(pid) / "io").read_text().splitlines()
        counts = dict(line.split(": ") for line in lines)
        return max(int(counts["rchar"]), int(counts["read_bytes"]))
    return 0


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int((PROC / str(pid) / "statm").read_text().split()[1]) * _PAGE
    return 0
