"""Files that only their owner may open: read with care, written whole or not at all."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rolemesh.config.problems import ConfigError, Position, Problem

PRIVATE = 0o600


def read_private(path: Path, cure: str) -> bytes:
    """What is in a file that belongs to us or to root and that nobody else may open.

    :param cure: what to do when there is no such file.
    :raises ConfigError: when it is missing, open to others or cannot be read.
    """
    try:
        # Without O_NONBLOCK a pipe in the file's place would hold up the whole program.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        raise _error(path, f"no such file: {cure}") from None
    except OSError as error:
        raise _error(path, f"cannot be read: {error.strerror}") from None
    try:
        _must_be_private(path, os.fstat(descriptor))
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def write_private(path: Path, text: str) -> None:
    """Put a text in the place of a file's content, private from its first byte.

    :raises OSError: when that cannot be done; the file is then as it was.
    """
    path = path.resolve()
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with open(_create(new), "w", encoding="utf-8") as file:
            leave_to_owner(file.fileno(), path)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
        _sync_folder(path.parent)
    finally:
        new.unlink(missing_ok=True)


def mark(path: Path) -> object:
    """What differs once a file was written, replaced, or given other rights; None without one."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@contextmanager
def lock_beside(path: Path) -> Iterator[None]:
    """Keep a file to oneself among those who also ask, waiting for who has it.

    :raises OSError: when there can be no lock file beside it.
    """
    path = path.resolve()
    lock = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, PRIVATE)
    try:
        leave_to_owner(lock, path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _must_be_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _error(path, "not a file")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise _error(path, f"others may read or write it (mode {mode:04o}): chmod 600 {path}")
    if status.st_uid not in (os.geteuid(), 0):
        cure = f"chown {os.geteuid()} {path}"
        raise _error(path, f"belongs to user {status.st_uid}, not to this program's: {cure}")


def _error(path: Path, text: str) -> ConfigError:
    return ConfigError([Problem(str(path), Position(), text)])


def _create(path: Path) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE)
    os.fchmod(descriptor, PRIVATE)  # a strange umask may have taken the owner's bits
    return descriptor


def leave_to_owner(descriptor: int, path: Path) -> None:
    """As root, give a new file to whom the one in its place belongs, or else its folder: so that
    root may add a key for a gateway that is not."""
    if os.geteuid() == 0:
        status = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, status.st_uid, status.st_gid)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
