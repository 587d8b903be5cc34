"""The folder of what must survive a restart, held by one process of each program."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import frozen

from rolemesh.config.private import leave_to_owner


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

        The lock outlives the fork of a daemon. A pidfile that a dead one left is removed.

        :raises InUse: when another process holds it.
        :raises StateError: when it cannot be made or written.
        """
        lock = self.path / f"{self.program}.lock"
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            leave_to_owner(held, self.path)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(held, 0)
            os.write(held, b"%d\n" % os.getpid())
            self.pidfile.unlink(missing_ok=True)
            return held
        except BlockingIOError:
            holder = _pid_in(self.pidfile) or _pid_in(lock) or "(unknown)"
            raise InUse(f"the state folder {self.path} is in use by process {holder}") from None
        except OSError as error:
            raise StateError(f"the state folder {self.path}: {error.strerror}") from None


def _pid_in(file: Path) -> str:
    """A daemon's pid is in its pidfile, as it takes the lock before it forks."""
    with suppress(OSError):
        if (pid := file.read_text().strip()).isdigit():
            return pid
    return ""
