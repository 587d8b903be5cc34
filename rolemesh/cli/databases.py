"""A PostgreSQL database that a command line names, never with its password."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rolemesh.config.gateway import holds_password
from rolemesh.config.private import read_private

if TYPE_CHECKING:
    from rolemesh.gateway.store.postgres_server import PostgresServer

STORE = "ROLEMESH_STORE"
SCHEMES = ("postgresql://", "postgres://")


class NoDatabase(Exception):
    """What is wrong with what names a database, and what to do instead."""


def database_url(text: str) -> str:
    """The URL that a text is or tells the place of, `env:NAME` or `file:PATH`.

    :raises NoDatabase: when there is none, or a password was written where every process sees it.
    :raises ConfigError: when others may read that file.
    """
    kind, _, name = text.partition(":")
    if kind == "env":
        return _checked(os.environ.get(name, "").strip(), f"${name}")
    if kind == "file":
        cure = "put the URL of a database there, and chmod 600 it"
        return _checked(read_private(Path(name), cure).decode(errors="replace").strip(), name)
    if holds_password(text):
        raise NoDatabase(
            f"a password does not stand on a command line: put the URL into ${STORE} and say"
            f" env:{STORE}, or into a private file and say file:PATH"
        )
    return _checked(text, text)


def server(url: str) -> "PostgresServer":
    """The database at a URL.

    :raises NoDatabase: when it is none, or the driver is not installed.
    """
    try:
        from psycopg import ProgrammingError

        from rolemesh.gateway.store.postgres_server import PostgresServer
    except ImportError:
        raise NoDatabase("a database takes: pip install 'rolemesh[postgres]'") from None
    try:
        return PostgresServer(url)
    except ProgrammingError:
        raise NoDatabase("no URL of a database: postgresql://USER@HOST:PORT/NAME") from None


def _checked(url: str, where: str) -> str:
    if not url.startswith(SCHEMES):
        raise NoDatabase(f"{where} is no URL of a database, such as postgresql://USER@HOST/NAME")
    return url
