"""What is done with the tables within one transaction, whatever the database and whoever asks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from attrs import astuple
from twisted.logger import Logger

from rolemesh.config.keyfile import record_text
from rolemesh.core.keys import KeyRecord
from rolemesh.core.report import read_registration
from rolemesh.gateway.store.interface import Changes, Kept, Usage, encode_registration

NODES_CHANNEL, KEYS_CHANNEL = "rolemesh_nodes", "rolemesh_keys"

_NODE = ("node", "instance", "generation", "registration", "source", "token", "registered_at")
_SPOT = ("day", "key", "role", "origin")
_FIGURES = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens")

Row = tuple[Any, ...]
Counts = Mapping[tuple[str, ...], tuple[int, ...]]

_log = Logger()


class Tables:
    """The statements over a cursor. `mark` is the driver's placeholder; with `tells` the database
    tells who listens which node or key was changed."""

    def __init__(self, mark: str, tells: bool = False) -> None:
        self._mark = mark
        self._tells = tells

    def nodes(self, cursor: Any, names: Sequence[str] | None = None) -> list[Kept]:
        """What is kept of these nodes, or of all."""
        columns = "registration, source, token, registered_at"
        return read_nodes(self._some(cursor, columns, "nodes", "node", names))

    def write(self, cursor: Any, changes: Changes) -> None:
        """In the order of names, so that two gateways never wait for each other."""
        for node, kept in sorted(changes.items()):
            if kept is None:
                cursor.execute(f"DELETE FROM nodes WHERE node = {self._mark}", (node,))
                self._tell(cursor, NODES_CHANNEL, node)
            else:
                self.put_node(cursor, node_row(kept))

    def put_node(self, cursor: Any, row: Row) -> None:
        """A row as `node_rows` has it."""
        cursor.execute(self._upsert("nodes", _NODE, _NODE[:1], "{0} = excluded.{0}"), row)
        self._tell(cursor, NODES_CHANNEL, row[0])

    def node_rows(self, cursor: Any) -> list[Row]:
        """All of all nodes, whether it can be read or not."""
        return self._some(cursor, ", ".join(_NODE), "nodes", "node", None)

    def renew(self, cursor: Any, id: str) -> None:
        """Count from now on as another database than the one that this is a copy of."""
        cursor.execute(f"UPDATE origin SET id = {self._mark}", (id,))

    def add_usage(self, cursor: Any, rows: Iterable[Usage]) -> None:
        """Add to what this database counts itself."""
        cursor.execute("SELECT id FROM origin")
        [origin] = cursor.fetchone()
        added = self._upsert("usage", (*_SPOT, *_FIGURES), _SPOT, "{0} = usage.{0} + excluded.{0}")
        for row in sorted(map(astuple, rows)):
            cursor.execute(added, (*row[:3], origin, *row[3:]))

    def usage(self, cursor: Any, since: str) -> list[Usage]:
        """The sums over all who counted."""
        sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in _FIGURES)
        cursor.execute(
            f"SELECT day, key, role, {sums} FROM usage WHERE day >= {self._mark}"
            " GROUP BY day, key, role ORDER BY day, key, role",
            (since,),
        )
        return [Usage(*row) for row in cursor.fetchall()]

    def prune_usage(self, cursor: Any, before: str) -> None:
        cursor.execute(f"DELETE FROM usage WHERE day < {self._mark}", (before,))

    def counts(self, cursor: Any) -> Counts:
        """The figures by day, key, role and who counted them."""
        cursor.execute(f"SELECT {', '.join((*_SPOT, *_FIGURES))} FROM usage")
        return {tuple(row[:4]): tuple(row[4:]) for row in cursor.fetchall()}

    def put_counts(self, cursor: Any, counts: Counts) -> None:
        """Figures as `counts` has them, in the place of others."""
        put = self._upsert("usage", (*_SPOT, *_FIGURES), _SPOT, "{0} = excluded.{0}")
        for spot, figures in sorted(counts.items()):
            cursor.execute(put, (*spot, *figures))

    def keys(self, cursor: Any, ids: Sequence[str] | None = None) -> dict[str, str]:
        """The texts of these keys' records, or of all, by id."""
        return dict(self._some(cursor, "id, record", "keys", "id", ids))

    def put_key(self, cursor: Any, record: KeyRecord) -> None:
        """Keep a key as it is now."""
        row = (record.id, record_text(record))
        cursor.execute(self._upsert("keys", ("id", "record"), ("id",), "{0} = excluded.{0}"), row)
        self._tell(cursor, KEYS_CHANNEL, record.id)

    def drop_key(self, cursor: Any, id: str) -> None:
        """As if it had never been."""
        cursor.execute(f"DELETE FROM keys WHERE id = {self._mark}", (id,))
        self._tell(cursor, KEYS_CHANNEL, id)

    def _some(
        self, cursor: Any, columns: str, table: str, key: str, wanted: Sequence[str] | None
    ) -> list[Row]:
        where = "" if wanted is None else f"WHERE {key} IN ({self._marks(wanted)})"
        cursor.execute(f"SELECT {columns} FROM {table} {where} ORDER BY {key}", wanted or ())
        found: list[Row] = cursor.fetchall()
        return found

    def _upsert(self, table: str, columns: Sequence[str], keys: Sequence[str], change: str) -> str:
        """Insert a row, or change the one that has these keys."""
        changes = ", ".join(change.format(name) for name in columns if name not in keys)
        return (
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({self._marks(columns)})"
            f" ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changes}"
        )

    def _marks(self, values: Sequence[object]) -> str:
        return ", ".join([self._mark] * len(values))

    def _tell(self, cursor: Any, channel: str, name: str) -> None:
        if self._tells:
            cursor.execute(f"SELECT pg_notify({self._mark}, {self._mark})", (channel, name))


def node_row(kept: Kept) -> Row:
    """What `Tables.put_node` takes."""
    told = kept.registration
    text = encode_registration(told)
    return told.node, told.instance, told.generation, text, kept.source, kept.token, kept.at


def read_nodes(rows: Iterable[Row]) -> list[Kept]:
    """A row that cannot be read is left where it is, and said."""
    found = []
    for text, source, token, at in rows:
        try:
            found.append(Kept(read_registration(text.encode()), source, token, at))
        except (msgspec.MsgspecError, UnicodeError, AttributeError) as error:
            _log.error("a kept registration cannot be read: {why}", why=str(error))
    return found
