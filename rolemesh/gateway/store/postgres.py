"""The store that several gateways share: a PostgreSQL database."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from twisted.enterprise.adbapi import Connection, ConnectionPool
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from rolemesh.gateway.store.database import Database
from rolemesh.gateway.store.interface import Hear, Kept, Lose, Meeting, NewerSchema, StoreFailed
from rolemesh.gateway.store.key_shelf import KeyShelf, Read, read_records
from rolemesh.gateway.store.listener import Listener, Told
from rolemesh.gateway.store.postgres_server import TABLES, PostgresServer, words
from rolemesh.gateway.store.presence import attend, leave
from rolemesh.gateway.store.tables import KEYS_CHANNEL, NODES_CHANNEL

T = TypeVar("T")


class PostgresStore(Database):
    """State in a database. Each change is told to the other gateways as soon as it is durable;
    `keys` is brought up to date with the keys that are there.

    :raises psycopg.ProgrammingError: when made with something that is no connection string.
    """

    shared = True
    tables = TABLES
    errors = psycopg.Error
    log = Logger()

    def __init__(self, reactor: Any, url: str, keys: KeyShelf) -> None:
        self._reactor = reactor
        self._server = PostgresServer(url)
        self._keys = keys
        self._listener: Listener | None = None
        self.prepare = self._server.prepare

    def __repr__(self) -> str:
        return "PostgresStore(…)"

    async def open(self, hear: Hear, lose: Lose, /) -> Sequence[Kept]:
        await self.close()
        try:
            listening = await self._in_thread(self._listen)
        except NewerSchema as error:
            raise StoreFailed(str(error)) from None
        where = self._server.where
        self._pool = _Pool("psycopg", where, cp_reactor=self._reactor, cp_min=1, cp_max=1)
        self._listener = listener = Listener(
            self._reactor, listening, lambda told: self._told(listener, told, hear), lose
        )
        self._keys.put_all(await self.run(self._read_keys))
        return await self.run(self.tables.nodes)

    async def meet(self, gateway: str, url: str | None) -> Meeting:
        return await self.run(attend, gateway, url)

    async def leave(self, gateway: str) -> None:
        await self.run(leave, gateway)

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        if pool is not None:
            # Its last query may be waiting for a database that is away, and the reactor must not.
            await deferToThreadPool(self._reactor, pool.threadpool, int)
            pool.close()

    def failed(self, error: Exception) -> StoreFailed:
        """Who opened it is told as well, whoever used it: the connection may be lost."""
        if self._listener is not None:
            self._listener.end(words(error))
        return StoreFailed(words(error))

    def _in_thread(self, call: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _listen(self) -> psycopg.Connection[Any]:
        """Before all is read, so that no change falls between."""
        self.prepare()
        return self._server.listen(NODES_CHANNEL, KEYS_CHANNEL)

    def _read_keys(self, cursor: Any, ids: Sequence[str] | None = None) -> Read:
        return read_records(self.tables.keys(cursor, ids))

    def _told(self, listener: Listener, told: Told, hear: Hear) -> None:
        def failed(failure: Any) -> None:
            if failure.check(StoreFailed) is None:
                self.log.failure("what another gateway changed could not be read", failure)

        Deferred.fromCoroutine(self._reread(listener, told, hear)).addErrback(failed)

    async def _reread(self, listener: Listener, told: Told, hear: Hear) -> None:
        """What comes when the store was opened anew meanwhile is old, and nobody is told."""
        ids, nodes = told.get(KEYS_CHANNEL, ()), told.get(NODES_CHANNEL, ())
        if ids:
            found = await self.run(self._read_keys, ids)
            if listener.hears:
                self._keys.put(_of(ids, found))
        if nodes:
            kept = {each.node: each for each in await self.run(self.tables.nodes, nodes)}
            if listener.hears:
                hear(_of(nodes, kept))


def _of(names: Sequence[str], found: Mapping[str, T]) -> dict[str, T | None]:
    return {name: found.get(name) for name in names}


class _Connection(Connection):
    def rollback(self) -> None:
        """A lost connection has nothing to roll back, and adbapi would log a traceback for it."""
        if self._connection is not None and not self._connection.closed:
            super().rollback()


class _Pool(ConnectionPool):
    connectionFactory = _Connection
