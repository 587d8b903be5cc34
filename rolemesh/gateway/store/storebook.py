"""The keys of a database, for the commands that make and change them."""

from typing import Any, TypeVar

from attrs import frozen

from rolemesh.config.keybook import BookClosed, Change, Records
from rolemesh.config.keyfile import read_record
from rolemesh.gateway.store.interface import NewerSchema, StoreFailed
from rolemesh.gateway.store.postgres_server import PostgresServer

T = TypeVar("T")


@frozen
class StoreBook:
    """Every gateway hears of a change as soon as it is made."""

    server: PostgresServer

    def __str__(self) -> str:
        return str(self.server)

    def read(self) -> Records:
        return self.change(lambda records: (records, records))

    def change(self, change: Change[T]) -> T:
        try:
            self.server.prepare()
            with self.server.transaction() as cursor:
                # Others go on reading; who wants to change something waits.
                cursor.execute("LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE")
                before = self._records(cursor)
                wanted, outcome = change(before)
                self._put(cursor, before, tuple(wanted))
        except (StoreFailed, NewerSchema) as error:
            raise BookClosed(f"{self.server}: {error}") from None
        return outcome

    def _records(self, cursor: Any) -> Records:
        texts = self.server.tables.keys(cursor)
        return tuple(read_record(text, f"the database's {id}") for id, text in texts.items())

    def _put(self, cursor: Any, before: Records, after: Records) -> None:
        kept = {record.id for record in after}
        for record in before:
            if record.id not in kept:
                self.server.tables.drop_key(cursor, record.id)
        for record in after:
            if record not in before:
                self.server.tables.put_key(cursor, record)
