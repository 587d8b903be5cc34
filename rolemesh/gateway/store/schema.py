"""The tables: how they came to be, step by step, and how a registration lies in them."""

from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import msgspec
from attrs import frozen
from twisted.logger import Logger

from rolemesh.core.report import read_registration
from rolemesh.gateway.store.interface import Kept, NewerSchema, encode_registration

_log = Logger()

VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"
VERSION = "SELECT coalesce(max(version), 0) FROM schema_version"
COLUMNS = ("node", "instance", "generation", "registration", "source", "token", "registered_at")
ALL = "SELECT registration, source, token, registered_at FROM nodes ORDER BY node"
SOME = "SELECT registration, source, token, registered_at FROM nodes WHERE node = ANY(%s)"


@frozen
class Migration:
    """One numbered step; numbers begin with 1 and have no gap."""

    version: int
    sql: str


def migrations() -> Sequence[Migration]:
    """All steps, the oldest first."""
    folder = files("rolemesh.gateway.store") / "migrations"
    steps = (file for file in folder.iterdir() if file.name.endswith(".sql"))
    return sorted(
        (Migration(int(file.name.partition("_")[0]), file.read_text()) for file in steps),
        key=lambda step: step.version,
    )


def missing(where: str, version: int) -> Sequence[Migration]:
    """The steps that a database of that version still needs.

    :raises NewerSchema: when it is beyond them all.
    """
    steps = migrations()
    if version > steps[-1].version:
        raise NewerSchema(where, version, steps[-1].version)
    return [step for step in steps if step.version > version]


def keep_sql(mark: str) -> str:
    """The statement that keeps a `row_of`; `mark` is the driver's placeholder."""
    new = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS[1:])
    marks = ", ".join([mark] * len(COLUMNS))
    return (
        f"INSERT INTO nodes ({', '.join(COLUMNS)}) VALUES ({marks})"
        f" ON CONFLICT (node) DO UPDATE SET {new}"
    )


def forget_sql(mark: str) -> str:
    """The statement that forgets a node."""
    return f"DELETE FROM nodes WHERE node = {mark}"


def row_of(kept: Kept) -> tuple[Any, ...]:
    told = kept.registration
    text = encode_registration(told)
    return told.node, told.instance, told.generation, text, kept.source, kept.token, kept.at


def read_rows(rows: Iterable[Sequence[Any]]) -> list[Kept]:
    """What `ALL` found. A row that cannot be read is left where it is, and said."""
    found = []
    for text, source, token, at in rows:
        try:
            found.append(Kept(read_registration(text.encode()), source, token, at))
        except (msgspec.MsgspecError, UnicodeError, AttributeError) as error:
            _log.error("a kept registration cannot be read: {why}", why=str(error))
    return found
