"""The folder of what must survive a restart, held by one process of each program."""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import frozen

from rolemesh.config.private import leave_to_owner

_TAKES_NOTHING = (errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class StateError(Exception):
    """A folder that cannot be used, told in one line."""


class InUse(StateError):
    """Another process holds the folder."""


@frozen
class StateFolder:
    """One program's share of a folder: its lock and what a daemon writes."""

    path: Path
    program: str

    @property
    def pidfile(self) -> Path:
        return self.path / f"{self.program}.pid"

    @property
    def log(self) -> Path:
        return self.path / f"{self.program}.log"

    @contextmanager
    def held(self) -> Iterator[None]:
        """`hold` it for a while."""
        lock = self.hold()
        try:
            yield
        finally:
            os.close(lock)

    def hold(self) -> int:
        """Make the folder, private, and lock it until this process ends, or closes what this
        returns.

        The lock outlives the fork of a daemon. A pidfile that a dead one left is removed. For a
        folder that takes nothing now, a name in the kernel is the lock.

        :raises InUse: when another process holds it.
        :raises StateError: when it cannot be made, or not even be read.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            return self._locked()
        except BlockingIOError:
            holder = _pid_in(self.pidfile) or _pid_in(self._lock) or "(unknown)"
            raise InUse(f"the state folder {self.path} is in use by process {holder}") from None
        except OSError as error:
            raise StateError(f"the state folder {self.path}: {error.strerror}") from None

    @property
    def _lock(self) -> Path:
        return self.path / f"{self.program}.lock"

    def _locked(self) -> int:
        try:
            held = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno not in _TAKES_NOTHING:
                raise
            return _named(self.path.stat(), self.program)
        os.close(_named(self.path.stat(), self.program))  # nobody has held it since it took nothing
        leave_to_owner(held, self.path)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(OSError):  # a disk may be full
            os.ftruncate(held, 0)
            os.write(held, b"%d\n" % os.getpid())
            self.pidfile.unlink(missing_ok=True)
        return held


def _named(folder: os.stat_result, program: str) -> int:
    """A socket that nobody connects to, under a name that only one process can have."""
    name = f"\0rolemesh/{program}/{folder.st_dev}/{folder.st_ino}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(name)
        except OSError as error:
            raise BlockingIOError from error
        return lock.detach()


def _pid_in(file: Path) -> str:
    """A daemon's pid is in its pidfile, as it takes the lock before it forks."""
    with suppress(OSError):
        if (pid := file.read_text().strip()).isdigit():
            return pid
    return ""
