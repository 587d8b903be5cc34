"""Hears, within the reactor, what a PostgreSQL database tells."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import psycopg
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rolemesh.gateway.store.interface import Lose
from rolemesh.gateway.store.postgres_server import words

Told = Mapping[str, Sequence[str]]


@implementer(IReadDescriptor)
class Listener:
    """A connection that hears of changes: `heard` gets what was told by channel, each thing once;
    `lost` why there will be no more. Closing it tells nobody."""

    def __init__(
        self,
        reactor: Any,
        connection: psycopg.Connection[Any],
        heard: Callable[[Told], None],
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
        told: dict[str, dict[str, None]] = {}
        try:
            self._connection.pgconn.consume_input()
            while notice := self._connection.pgconn.notifies():
                told.setdefault(notice.relname.decode(), {})[notice.extra.decode()] = None
        except psycopg.Error as error:
            self.end(words(error))
        if told:
            self._heard({channel: list(names) for channel, names in told.items()})

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
