"""The default store: one SQLite file, written by one thread."""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from twisted.enterprise.adbapi import ConnectionPool, Transaction
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from rolemesh.gateway.store.interface import (
    Changes,
    Hear,
    Kept,
    Lose,
    NewerSchema,
    StoreFailed,
)
from rolemesh.gateway.store.schema import (
    ALL,
    VERSION,
    VERSION_TABLE,
    forget_sql,
    keep_sql,
    missing,
    read_rows,
    row_of,
)

T = TypeVar("T")

BUSY = 2.0  # seconds to wait for who else has the file
_CORRUPT = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_KEEP, _FORGET = keep_sql("?"), forget_sql("?")

_log = Logger()


class SqliteStore:
    """State in a private file. A commit is on the disk when it returns: power may fail then.

    `now` is the time of day, with which a broken file is set aside; `busy` is in seconds.
    """

    shared = False

    def __init__(
        self, reactor: Any, path: Path, now: Callable[[], float], busy: float = BUSY
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._now = now
        self._busy = busy
        self._pool: ConnectionPool | None = None

    def prepare(self) -> None:
        """Make the file, mend or set aside what is wrong with it, bring its tables up to date.

        Blocks, and leaves nothing open: for before the reactor runs, and for a thread.

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

    async def open(self, _hear: Hear, _lose: Lose, /) -> Sequence[Kept]:
        await self.close()
        threads = self._reactor.getThreadPool()
        try:
            await deferToThreadPool(self._reactor, threads, self.prepare)
        except NewerSchema as error:
            raise StoreFailed(str(error)) from error
        self._pool = ConnectionPool(
            "sqlite3",
            str(self._path),
            timeout=self._busy,
            check_same_thread=False,
            cp_reactor=self._reactor,
            cp_min=1,
            cp_max=1,
            cp_openfun=_settle,
        )
        return read_rows(await _or_failed(self._pool.runQuery(ALL)))

    async def write(self, changes: Changes) -> None:
        if self._pool is None:
            raise StoreFailed("it is not open")
        await _or_failed(self._pool.runInteraction(_write, changes))

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _prepare(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        connecting = sqlite3.connect(self._path, timeout=self._busy, isolation_level=None)
        with closing(connecting) as connection:
            _settle(connection)
            _check(connection)
            _migrate(connection, str(self._path))

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


def _settle(connection: sqlite3.Connection) -> None:
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


def _write(transaction: Transaction, changes: Changes) -> None:
    for node, kept in changes.items():
        if kept is None:
            transaction.execute(_FORGET, (node,))
        else:
            transaction.execute(_KEEP, row_of(kept))


def _is_corrupt(error: sqlite3.DatabaseError) -> bool:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _CORRUPT


async def _or_failed(asking: Deferred[T]) -> T:
    try:
        return await asking
    except sqlite3.Error as error:
        raise StoreFailed(str(error)) from error
