"""What a server writes that is to outlive its agent: a file instead of a pipe, read on a beat."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rolemesh.node.aside import Aside

READ_EVERY = 0.25  # seconds
AT_ONCE = 1024 * 1024  # bytes
BACKLOG = 4 * AT_ONCE  # bytes; of what is beyond, only the end is read
CAP = 50 * 1000 * 1000  # bytes that the file may have: it is a pipe with a memory, not an archive
TAIL = 64 * 1024  # bytes, for the next agent
PATIENCE = 2.0  # seconds that the last read may take


class LogFile:
    """One process's output. All reading is done aside, as the disk may hang."""

    def __init__(self, descriptor: int, aside: Aside, clock: IReactorTime) -> None:
        self.descriptor = descriptor
        self._aside = aside
        self._clock = clock
        self._position = os.fstat(descriptor).st_size
        self._deliver: Callable[[bytes], None] = lambda _: None
        self._closing = False
        self._loop = LoopingCall(self._read)
        self._loop.clock = clock

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Deliver what is written from now on."""
        self._deliver = deliver
        self._loop.start(READ_EVERY, now=False)

    def finish(self) -> Deferred[None]:
        """Deliver the rest, and close. Fires when that is done, or cannot be."""
        if not self._loop.running:
            return succeed(None)
        self._loop.stop()
        reading = self._read().addTimeout(PATIENCE, self._clock)
        self.leave()
        return reading.addErrback(lambda _: None)

    def leave(self) -> None:
        """Read no more; whoever writes goes on."""
        if self._loop.running:
            self._loop.stop()
        if not self._closing:
            self._closing = True
            self._aside.do(self._close)

    def _read(self) -> Deferred[None]:
        done = self._aside.do(self._news)
        return done.addCallbacks(self._tell, lambda _: None)

    def _tell(self, data: bytes) -> None:
        if data:
            self._deliver(data)

    def _news(self) -> bytes:
        size = os.fstat(self.descriptor).st_size
        if size < self._position:
            self._position = 0  # somebody emptied it
        skipped = max(0, size - self._position - BACKLOG)
        if skipped:
            self._position = size - AT_ONCE
        data = os.pread(self.descriptor, BACKLOG, self._position)
        self._position += len(data)
        if self._position >= CAP:
            os.ftruncate(self.descriptor, 0)
            self._position = 0
        mark = f"\n... {skipped} bytes of its log were not read\n".encode() if skipped else b""
        return mark + data

    def _close(self) -> None:
        with suppress(OSError):
            os.close(self.descriptor)


def fresh(path: Path) -> int:
    """An empty file to write to and to read; each write goes to its end.

    :raises OSError: when there can be none.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def again(path: Path) -> tuple[int, list[bytes]]:
    """The file of a process that runs, and the last lines in it.

    :raises OSError: when it is not there any more.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
    size = os.fstat(descriptor).st_size
    lines = os.pread(descriptor, TAIL, max(0, size - TAIL)).split(b"\n")
    return descriptor, lines[1 if size > TAIL else 0 : -1]
