"""The tables, and how they came to be, step by step."""

from collections.abc import Sequence
from importlib.resources import files
from uuid import uuid4

from attrs import frozen

from rolemesh.gateway.store.interface import NewerSchema

VERSION_TABLE = "CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)"
VERSION = "SELECT coalesce(max(version), 0) FROM schema_version"
NEW_ID = "$NEW_ID"  # in a step, an id that no other database has


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
        (Migration(_number(file.name), _filled_in(file.read_text())) for file in steps),
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


def _number(name: str) -> int:
    return int(name.partition("_")[0])


def _filled_in(sql: str) -> str:
    return sql.replace(NEW_ID, uuid4().hex)
