"""One private SQLite file: made, mended, brought up to date, and opened for one transaction."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.logger import Logger

from rolemesh.config.private import leave_to_owner
from rolemesh.gateway.store.interface import StoreFailed
from rolemesh.gateway.store.schema import VERSION, VERSION_TABLE, missing
from rolemesh.gateway.store.tables import Tables

BUSY = 2.0  # seconds to wait for who else has the file
TABLES = Tables("?")
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_log = Logger()


class SqliteFile:
    """A file for its owner alone. A commit is on the disk when it returns: power may fail then.

    `now` is the time of day, with which a broken file is set aside; `busy` is in seconds.
    """

    tables = TABLES

    def __init__(
        self, path: Path, now: Callable[[], float] = time.time, busy: float = BUSY
    ) -> None:
        self._path = path
        self._now = now
        self._busy = busy

    def prepare(self) -> None:
        """Make the file, mend or set aside what is wrong with it, bring its tables up to date.

        Blocks, and leaves nothing open.

        :raises NewerSchema: when a later RoleMesh wrote it.
        :raises StoreFailed: when that cannot be done now.
        """
        try:
            try:
                self._prepare()
            except sqlite3.DatabaseError as error:
                if not _is_corrupt(error):
                    raise
                self._set_aside(error)
                self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(str(error)) from error

    def update(self) -> None:
        """The same, but for mending anything.

        :raises NewerSchema: as `prepare`.
        :raises StoreFailed: as `prepare`, and when the file is broken.
        """
        try:
            self._prepare()
        except (sqlite3.Error, OSError) as error:
            raise StoreFailed(str(error)) from error

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor, whose work is all done or none of it. Blocks.

        :raises StoreFailed: when it cannot be.
        """
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                yield connection.cursor()
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error

    def copy_to(self, path: Path) -> None:
        """Make a new private file with all that is in this one now, whoever writes to it meanwhile.

        :raises StoreFailed: when it cannot be.
        """
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            with closing(self._connect()) as connection, closing(sqlite3.connect(path)) as copy:
                connection.backup(copy)
        except sqlite3.Error as error:
            raise StoreFailed(str(error)) from error

    def content(self) -> bytes:
        """The whole of it as it is at one moment, whoever writes to it meanwhile.

        :raises StoreFailed: as `copy_to`.
        """
        with TemporaryDirectory(prefix="rolemesh-") as folder:
            copy = Path(folder) / self._path.name
            self.copy_to(copy)
            return copy.read_bytes()

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=self._busy, isolation_level=None)

    def _prepare(self) -> None:
        self._make()
        with closing(self._connect()) as connection:
            settle(connection)
            _check(connection)
            _migrate(connection, str(self._path))

    def _make(self) -> None:
        if not self._path.exists():
            made = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            leave_to_owner(made, self._path.parent)
            os.close(made)

    def _set_aside(self, error: Exception) -> None:
        """Start empty: agents register again by themselves within a heartbeat."""
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(self._now()))
        aside = f"{self._path}.corrupt-{stamp}"
        _log.error(
            "{path} is broken ({why}): it is set aside as {aside}, and a new one begins",
            path=str(self._path),
            why=str(error),
            aside=aside,
        )
        for part in ("-wal", "-shm", ""):
            if os.path.exists(f"{self._path}{part}"):
                os.rename(f"{self._path}{part}", f"{aside}{part}")


def settle(connection: sqlite3.Connection) -> None:
    """What every connection to the file begins with."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")


def _check(connection: sqlite3.Connection) -> None:
    [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        error = sqlite3.DatabaseError(found)
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error


def _migrate(connection: sqlite3.Connection, where: str) -> None:
    """Each step with its number, or neither. Nothing is written where nothing is missing."""
    if not connection.execute(
        "SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"
    ).fetchone():
        connection.execute(VERSION_TABLE)
    [version] = connection.execute(VERSION).fetchone()
    for step in missing(where, version):
        number = f"INSERT INTO schema_version VALUES ({step.version});"
        connection.executescript(f"BEGIN IMMEDIATE;\n{step.sql}\n{number}\nCOMMIT;")


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _CORRUPT
