"""What a store does alike over any database, in a thread of its own."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from twisted.enterprise.adbapi import ConnectionPool

from rolemesh.gateway.store.interface import Changes, Meeting, StoreFailed, Usage
from rolemesh.gateway.store.tables import Tables

T = TypeVar("T")


class Database:
    """A store over a pool of one connection, which a subclass opens.

    `errors` are what its driver raises.
    """

    tables: ClassVar[Tables]
    errors: ClassVar[type[Exception]]

    _pool: ConnectionPool | None = None

    async def write(self, changes: Changes) -> None:
        await self.run(self.tables.write, changes)

    async def add_usage(self, rows: Sequence[Usage]) -> None:
        await self.run(self.tables.add_usage, rows)

    async def usage(self, since: str) -> Sequence[Usage]:
        return await self.run(self.tables.usage, since)

    async def prune_usage(self, before: str) -> None:
        await self.run(self.tables.prune_usage, before)

    async def meet(self, _gateway: str, url: str | None) -> Meeting:
        self._opened()
        return Meeting((url,) if url else ())

    async def leave(self, _gateway: str) -> None:
        """Nobody else would know."""

    async def run(self, interaction: Callable[..., T], *arguments: Any) -> T:
        """What `interaction` returns for a cursor and the arguments; it may block, and is one
        transaction.

        :raises StoreFailed: when nothing came of it.
        """
        pool = self._opened()
        try:
            found: T = await pool.runInteraction(interaction, *arguments)
        except self.errors as error:
            raise self.failed(error) from None
        return found

    def _opened(self) -> ConnectionPool:
        if self._pool is None:
            raise StoreFailed("it is not open")
        return self._pool

    def failed(self, error: Exception) -> StoreFailed:
        """The same for who uses the store."""
        return StoreFailed(str(error))
