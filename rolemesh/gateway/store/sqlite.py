"""The default store: one SQLite file, written by one thread."""

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.enterprise.adbapi import ConnectionPool
from twisted.internet.threads import deferToThreadPool

from rolemesh.gateway.store.database import Database
from rolemesh.gateway.store.interface import Hear, Kept, Lose, NewerSchema, StoreFailed
from rolemesh.gateway.store.sqlite_file import BUSY, TABLES, SqliteFile, settle


class SqliteStore(Database):
    """State in a private file.

    `now` is the time of day, with which a broken file is set aside; `busy` is in seconds.
    """

    shared = False
    tables = TABLES
    errors = sqlite3.Error

    def __init__(
        self, reactor: Any, path: Path, now: Callable[[], float], busy: float = BUSY
    ) -> None:
        self._reactor = reactor
        self._path = path
        self._busy = busy
        self.prepare = SqliteFile(path, now, busy).prepare

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
            cp_openfun=settle,
        )
        return await self.run(self.tables.nodes)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
