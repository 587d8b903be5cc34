"""Where all that a gateway keeps can be copied from and to: a state folder, a database, a file of
keys. What fails raises `StoreFailed`, `NewerSchema`, `ConfigError` or `BookClosed`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

from attrs import frozen

from rolemesh.config.keybook import FileBook
from rolemesh.config.keyfile import read_record
from rolemesh.core.keys import KeyKind, KeyRecord
from rolemesh.gateway.store.contents import Contents
from rolemesh.gateway.store.sqlite_file import SqliteFile
from rolemesh.gateway.store.tables import Tables
from rolemesh.state import StateFolder

DATABASE = "state.db"
GATEWAY = "rolemesh-gateway"  # the program whose lock a state folder has
_KEY_FILES = {
    "keys.yaml": (KeyKind.CLIENT, KeyKind.ADMIN),
    "nodes.yaml": (KeyKind.NODE, KeyKind.INVITE),
}

Choose = Callable[[Contents], Contents]


class Source(Protocol):
    """Something to copy from; `str()` says what."""

    def read(self) -> Contents:
        """All that is there."""


class Target(Protocol):
    """Something to copy to; `str()` says what."""

    def put(self, choose: Choose) -> None:
        """Put what `choose` wants there, told what is there; nobody else writes meanwhile."""


@frozen
class KeyFile:
    """A file of keys by itself."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Contents:
        return Contents(keys=_by_id(FileBook(self.path).read()))


@frozen
class Folder:
    """A state folder: registrations and usage in its database, and keys in `keys.yaml` and
    `nodes.yaml` beside it, where they are there."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Contents:
        """The gateway may run meanwhile; its database is left as it is."""
        with TemporaryDirectory(prefix="rolemesh-") as folder:
            copy = SqliteFile(Path(folder) / DATABASE)
            if (self.path / DATABASE).exists():
                SqliteFile(self.path / DATABASE).copy_to(Path(folder) / DATABASE)
            copy.update()
            with copy.transaction() as cursor:
                return self._with_keys(_read(cursor, copy.tables))

    def put(self, choose: Choose) -> None:
        """Not while a gateway runs in it."""
        with StateFolder(self.path, GATEWAY).held():
            file = SqliteFile(self.path / DATABASE)
            file.update()
            with file.transaction() as cursor:
                wanted = choose(self._with_keys(_read(cursor, file.tables)))
                _put(cursor, file.tables, wanted)
                for name, kinds in _KEY_FILES.items():
                    self._put_keys(name, [key for key in wanted.keys.values() if key.kind in kinds])

    def _with_keys(self, found: Contents) -> Contents:
        records = [record for name in _KEY_FILES for record in FileBook(self.path / name).read()]
        return Contents(found.nodes, _by_id(records), found.counts)

    def _put_keys(self, name: str, keys: Iterable[KeyRecord]) -> None:
        new = _by_id(keys)
        if new:
            FileBook(self.path / name).change(
                lambda records: ({**_by_id(records), **new}.values(), None)
            )


@frozen
class Database:
    """A database that gateways share, while they run or not."""

    server: Any  # a PostgresServer, whose driver need not be installed for the others

    def __str__(self) -> str:
        return str(self.server)

    def read(self) -> Contents:
        self.server.prepare()
        with self.server.transaction() as cursor:
            return _with_kept_keys(cursor, self.server.tables)

    def put(self, choose: Choose) -> None:
        self.server.prepare()
        with self.server.transaction() as cursor:
            cursor.execute("LOCK TABLE nodes, keys, usage IN SHARE ROW EXCLUSIVE MODE")
            wanted = choose(_with_kept_keys(cursor, self.server.tables))
            _put(cursor, self.server.tables, wanted)
            for record in wanted.keys.values():
                self.server.tables.put_key(cursor, record)


def _read(cursor: Any, tables: Tables) -> Contents:
    """All but keys."""
    return Contents({row[0]: row for row in tables.node_rows(cursor)}, {}, tables.counts(cursor))


def _with_kept_keys(cursor: Any, tables: Tables) -> Contents:
    found = _read(cursor, tables)
    texts = tables.keys(cursor)
    keys = {id: read_record(text, f"the database's {id}") for id, text in texts.items()}
    return Contents(found.nodes, keys, found.counts)


def _put(cursor: Any, tables: Tables, wanted: Contents) -> None:
    """All but keys."""
    for _, row in sorted(wanted.nodes.items()):
        tables.put_node(cursor, row)
    tables.put_counts(cursor, wanted.counts)


def _by_id(records: Iterable[KeyRecord]) -> dict[str, KeyRecord]:
    return {record.id: record for record in records}
