"""Which keys a command means: those of a file, of a database, or of a gateway's configuration."""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from rolemesh.cli.databases import STORE, database_url, server
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.keybook import FileBook, KeyBook
from rolemesh.config.locate import GATEWAY_FILE, find_config
from rolemesh.config.problems import ConfigError
from rolemesh.core.keys import KeyKind


@frozen
class _Use:
    """The default file of a kind of keys, the setting that names where they are, and what to do
    with a key."""

    file: str
    setting: str
    next: str


_USES: Mapping[KeyKind, _Use] = {
    KeyKind.CLIENT: _Use(
        "keys.yaml",
        "gateway:\n  keys: PLACE",
        "Clients send it as their API key.",
    ),
    KeyKind.NODE: _Use(
        "nodes.yaml",
        "gateway:\n  nodes:\n    tokens: PLACE",
        "On the node, put it into node.token (chmod 600), and into node_agent.yaml the line\n"
        "token: {file: node.token}",
    ),
    KeyKind.ADMIN: _Use(
        "keys.yaml",
        "gateway:\n  keys: PLACE",
        "Operators put it into $ROLEMESH_ADMIN_KEY, for `rolemesh drain` and its like.",
    ),
}


def add_place_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the keys are, when not where the gateway's usual configuration says."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--file", type=Path, help="the key file, when not the gateway's own")
    where.add_argument(
        "--store", nargs="?", const=f"env:{STORE}", metavar="URL",
        help=f"the database: postgresql://USER@HOST/NAME, file:PATH, env:NAME (env:{STORE})",
    )  # fmt: skip
    where.add_argument("--config", help="the gateway's configuration, which says where keys are")


def book_of(arguments: argparse.Namespace, kind: KeyKind) -> KeyBook:
    """Where the keys of a kind are that the arguments mean.

    :raises ConfigError: when the gateway's configuration cannot tell.
    :raises NoDatabase: when the arguments name none, or it cannot be used here.
    """
    if arguments.file:
        return FileBook(arguments.file)
    if arguments.store:
        return _store(database_url(arguments.store))
    config = _gateway_file(arguments.config)
    return _named(kind, load_gateway(config, os.environ)) or FileBook(
        config.with_name(_USES[kind].file)
    )


def books_of(arguments: argparse.Namespace) -> Sequence[KeyBook]:
    """All places of keys that the arguments mean, each once; raises as `book_of`."""
    return list(dict.fromkeys(book_of(arguments, kind) for kind in _USES))


def how_to_use(kind: KeyKind, book: KeyBook, config: str | None) -> str:
    """What to do with a new key, and with the gateway when it does not ask for such keys yet."""
    use = _USES[kind]
    if _is_in_use(kind, book, config):
        return f"{use.next}\nThe gateway takes it within a second."
    place = f"{{file: {book.path.resolve()}}}" if isinstance(book, FileBook) else "store"
    return (
        f"{use.next}\n"
        f"The gateway asks for it once {GATEWAY_FILE.file} says so; add there, and restart it:\n"
        f"{use.setting.replace('PLACE', place)}"
    )


def _is_in_use(kind: KeyKind, book: KeyBook, config: str | None) -> bool:
    """Whether the gateway's configuration names the place, as far as that can be told."""
    try:
        named = _named(kind, load_gateway(_gateway_file(config), os.environ))
    except ConfigError:
        return False
    if isinstance(named, FileBook) and isinstance(book, FileBook):
        return named.path.resolve() == book.path.resolve()
    return named == book


def _gateway_file(config: str | None) -> Path:
    return find_config(GATEWAY_FILE, config, os.environ, Path.cwd(), Path.home())


def _named(kind: KeyKind, settings: GatewaySettings) -> KeyBook | None:
    place = settings.nodes.tokens if kind is KeyKind.NODE else settings.keys
    if place == "store":
        return _store(settings.store or "")
    return FileBook(place) if place else None


def _store(url: str) -> KeyBook:
    database = server(url)
    from rolemesh.gateway.store.storebook import StoreBook  # which takes the driver

    return StoreBook(database)
