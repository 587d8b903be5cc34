"""The store that several gateways share: a PostgreSQL database."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import psycopg
from psycopg.conninfo import make_conninfo
from twisted.enterprise.adbapi import Connection, ConnectionPool, Transaction
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReadDescriptor
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

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
    SOME,
    VERSION,
    VERSION_TABLE,
    forget_sql,
    keep_sql,
    missing,
    read_rows,
    row_of,
)

T = TypeVar("T")

CHANNEL = "rolemesh_nodes"
MIGRATING = 7253141  # the advisory lock of who changes the tables
_KEEP, _FORGET = keep_sql("%s"), forget_sql("%s")

# A database that is away is noticed, and never waited for long: all of these are far below a lease.
_PATIENCE: dict[str, str | int] = {
    "connect_timeout": 2,  # seconds
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
    "options": "-c statement_timeout=5s -c lock_timeout=2s",
}


class PostgresStore:
    """State in a database. Each change is told to the other gateways as soon as it is durable.

    :raises psycopg.ProgrammingError: when made with something that is no connection string.
    """

    shared = True

    def __init__(self, reactor: Any, url: str) -> None:
        self._reactor = reactor
        self._where = make_conninfo(url, application_name="rolemesh", **_PATIENCE)
        self._pool: ConnectionPool | None = None
        self._listener: Listener | None = None

    def __repr__(self) -> str:
        return "PostgresStore(…)"

    def prepare(self) -> None:
        """Bring the tables up to date. Blocks: for before the reactor runs, and for a thread.

        :raises NewerSchema: when a later RoleMesh wrote them.
        :raises StoreFailed: when the database cannot be used now.
        """
        try:
            with psycopg.connect(self._where) as connection:
                _migrate(connection)
        except psycopg.Error as error:
            raise StoreFailed(_words(error)) from None

    async def open(self, hear: Hear, lose: Lose, /) -> Sequence[Kept]:
        await self.close()
        try:
            listening = await self._in_thread(self._listen)
        except NewerSchema as error:
            raise StoreFailed(str(error)) from None
        self._pool = _Pool("psycopg", self._where, cp_reactor=self._reactor, cp_min=1, cp_max=1)
        self._listener = listener = Listener(
            self._reactor, listening, lambda nodes: self._reread(listener, nodes, hear), lose
        )
        return read_rows(await _or_failed(self._pool.runQuery(ALL)))

    async def write(self, changes: Changes) -> None:
        if self._pool is None:
            raise StoreFailed("it is not open")
        await _or_failed(self._pool.runInteraction(_write, changes))

    async def close(self) -> None:
        pool, self._pool = self._pool, None
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        if pool is not None:
            # Its last query may be waiting for a database that is away, and the reactor must not.
            await deferToThreadPool(self._reactor, pool.threadpool, int)
            pool.close()

    def _in_thread(self, call: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(self._reactor, self._reactor.getThreadPool(), call)

    def _listen(self) -> psycopg.Connection[Any]:
        """Before all is read, so that no change falls between."""
        self.prepare()
        try:
            connection = psycopg.connect(self._where, autocommit=True)
            connection.execute(f"LISTEN {CHANNEL}")
        except psycopg.Error as error:
            raise StoreFailed(_words(error)) from None
        return connection

    def _reread(self, listener: "Listener", nodes: Sequence[str], hear: Hear) -> None:
        """What comes when the store was opened anew meanwhile is old, and nobody is told."""

        def found(rows: Iterable[Sequence[Any]]) -> None:
            kept = {each.node: each for each in read_rows(rows)}
            if listener.hears:
                hear({node: kept.get(node) for node in nodes})

        if self._pool is not None:
            reading = self._pool.runQuery(SOME, (list(nodes),))
            reading.addCallbacks(found, lambda failure: listener.end(_words(failure.value)))


class _Connection(Connection):
    def rollback(self) -> None:
        """A lost connection has nothing to roll back, and adbapi would log a traceback for it."""
        if self._connection is not None and not self._connection.closed:
            super().rollback()


class _Pool(ConnectionPool):
    connectionFactory = _Connection


@implementer(IReadDescriptor)
class Listener:
    """A connection that hears of changes, in the reactor: `heard` gets the names of the nodes,
    `lost` why there will be no more. Closing it tells nobody."""

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        connection: psycopg.Connection[Any],
        heard: Callable[[Sequence[str]], None],
        lost: Lose,
    ) -> None:
        self._reactor = reactor
        self._connection = connection
        # libpq closes its socket as soon as it is lost, and epoll cannot let go of a closed one.
        self._number = os.dup(connection.fileno())
        self._heard = heard
        self._lost = lost
        reactor.addReader(self)

    def fileno(self) -> int:
        return self._number

    def logPrefix(self) -> str:
        return "postgres"

    def doRead(self) -> None:
        names: dict[str, None] = {}
        try:
            self._connection.pgconn.consume_input()
            while notice := self._connection.pgconn.notifies():
                names[notice.extra.decode()] = None
        except psycopg.Error as error:
            self.end(_words(error))
        if names:
            self._heard(list(names))

    def connectionLost(self, reason: Failure) -> None:
        self.end(reason.getErrorMessage())

    @property
    def hears(self) -> bool:
        return self._number >= 0

    def close(self) -> None:
        """Hear no more."""
        if self.hears:
            self._reactor.removeReader(self)
            os.close(self._number)
            self._connection.close()
        self._number = -1

    def end(self, why: str) -> None:
        """Hear no more, and say why, once."""
        if self.hears:
            self.close()
            self._lost(why)


def _migrate(connection: psycopg.Connection[Any]) -> None:
    """All in one transaction, by one gateway at a time."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
    connection.execute(VERSION_TABLE)
    [version] = connection.execute(VERSION).fetchone() or (0,)
    for step in missing("the database", version):
        connection.execute(step.sql.encode())
        connection.execute("INSERT INTO schema_version VALUES (%s)", (step.version,))


def _write(transaction: Transaction, changes: Changes) -> None:
    """In the order of names, so that two gateways never wait for each other."""
    for node, kept in sorted(changes.items()):
        if kept is None:
            transaction.execute(_FORGET, (node,))
        else:
            transaction.execute(_KEEP, row_of(kept))
        transaction.execute("SELECT pg_notify(%s, %s)", (CHANNEL, node))


async def _or_failed(asking: Deferred[T]) -> T:
    try:
        return await asking
    except psycopg.Error as error:
        raise StoreFailed(_words(error)) from None


def _words(error: BaseException) -> str:
    """The first line: others may quote what was sent."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
