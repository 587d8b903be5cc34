"""One PostgreSQL database: its tables brought up to date, and opened for one transaction."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import psycopg
from attrs import field, frozen
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from rolemesh.gateway.store.interface import StoreFailed
from rolemesh.gateway.store.schema import VERSION, VERSION_TABLE, missing
from rolemesh.gateway.store.tables import Tables

MIGRATING = 7253141  # the advisory lock of who changes the tables
TABLES = Tables("%s", tells=True)

# A database that is away is noticed, and never waited for long: all of these are far below a lease.
_PATIENCE: dict[str, str | int] = {
    "connect_timeout": 2,  # seconds
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,  # milliseconds
    "options": "-c statement_timeout=5s -c lock_timeout=2s",
}


def _patiently(url: str) -> str:
    return make_conninfo(url, application_name="rolemesh", **_PATIENCE)


@frozen
class PostgresServer:
    """Where a database is, made of its URL; as text without the password.

    :raises psycopg.ProgrammingError: when made with something that is no connection string.
    """

    where: str = field(converter=_patiently, repr=False)

    tables: ClassVar[Tables] = TABLES

    def __str__(self) -> str:
        said = conninfo_to_dict(self.where)
        return f"the database '{said.get('dbname', '')}' at {said.get('host', 'localhost')}"

    def prepare(self) -> None:
        """Bring the tables up to date, one gateway at a time. Blocks.

        :raises NewerSchema: when a later RoleMesh wrote them.
        :raises StoreFailed: when the database cannot be used now.
        """
        with self.transaction() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATING,))
            cursor.execute(VERSION_TABLE)
            [version] = cursor.execute(VERSION).fetchone()
            for step in missing("the database", version):
                cursor.execute(step.sql.encode())
                cursor.execute("INSERT INTO schema_version VALUES (%s)", (step.version,))

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor, whose work is all done or none of it. Blocks.

        :raises StoreFailed: when it cannot be.
        """
        try:
            with psycopg.connect(self.where) as connection:
                yield connection.cursor()
        except psycopg.Error as error:
            raise StoreFailed(words(error)) from None

    def listen(self, *channels: str) -> psycopg.Connection[Any]:
        """A connection that the database tells what happens on these. Blocks.

        :raises StoreFailed: when there can be none.
        """
        try:
            connection = psycopg.connect(self.where, autocommit=True)
            for channel in channels:
                connection.execute(f"LISTEN {channel}".encode())
        except psycopg.Error as error:
            raise StoreFailed(words(error)) from None
        return connection


def words(error: BaseException) -> str:
    """The first line: others may quote what was sent."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
