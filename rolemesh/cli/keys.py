"""`rolemesh keys`: make, show, limit, rotate and revoke client keys, admin keys, node tokens."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import evolve

from rolemesh.cli import key_arguments
from rolemesh.cli.client import Failed
from rolemesh.cli.databases import NoDatabase
from rolemesh.cli.gateway_arguments import gateway_of
from rolemesh.cli.key_places import book_of, books_of, how_to_use
from rolemesh.cli.key_show import key_json, key_story, usage_of
from rolemesh.cli.key_table import key_table, limits_text, shown_time
from rolemesh.cli.key_words import add_actions
from rolemesh.config.keybook import BookClosed, KeyBook
from rolemesh.config.locate import NoConfiguration
from rolemesh.config.problems import ConfigError, printable
from rolemesh.core.keys import (
    ENTROPY,
    SECRET_BYTES,
    KeyKind,
    KeyRecord,
    mint,
    revoke,
    rotate,
)


class KeysError(Exception):
    """What the command cannot do, and what to do instead."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys` to the commands; its `run` is in the arguments that the parser returns."""
    parser = subparsers.add_parser("keys", help="make, show, limit, rotate and revoke keys")
    parser.set_defaults(run=run)
    add_actions(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; 0, or 1 or 78 with the reason on standard error."""
    try:
        _ACTIONS[arguments.action](arguments, time.time())
    except NoConfiguration as error:
        _tell(f"{error}; name the key file with --file, or the database with --store")
        return 78
    except ConfigError as error:
        _tell(str(error))
        return 78
    except (KeysError, NoDatabase, Failed) as error:
        _tell(f"rolemesh keys: {error}")
        return 1
    except BookClosed as error:
        _tell(f"rolemesh keys: {error}; name another with --file or --store")
        return 1
    return 0


def _add(arguments: argparse.Namespace, now: float) -> None:
    kind = KeyKind.ADMIN if arguments.admin else _kind(arguments)
    if kind is not KeyKind.CLIENT and arguments.scopes:
        raise KeysError("--scopes is for client keys: the others may do one thing")
    limits = key_arguments.limits_of(arguments)
    if kind is not KeyKind.CLIENT and limits:
        raise KeysError("limits are for client keys: the others ask for no tokens")
    if arguments.admin and arguments.node:
        raise KeysError("--admin and --node are two keys: make them one by one")
    text, blank = mint(kind, os.urandom(ENTROPY), now)
    record = evolve(
        blank,
        name=arguments.name or arguments.node or blank.id,
        node=arguments.node,
        roles=() if arguments.admin else arguments.roles,
        scopes=arguments.scopes or blank.scopes,
        networks=tuple(arguments.network),
        expires_at=None if arguments.expires is None else now + arguments.expires,
        note=arguments.note or "",
        **limits,
    )
    book = book_of(arguments, kind)
    book.change(lambda records: (_with_new(record, records, book), None))
    print(text)
    _tell(f"'{record.name}' is in {book}. The line above is its only showing: keep it safe.")
    _tell(f"It is for {_roles_of(record)} and {_ends(record)}.")
    _tell(how_to_use(kind, book, arguments.config))


def _list(arguments: argparse.Namespace, now: float) -> None:
    where, wanted = _meant(arguments)
    if not wanted:
        _tell(f"No such key in {where}. Make one: rolemesh keys add")
        return
    for line in key_table(wanted, now):
        print(line)


def _meant(arguments: argparse.Namespace) -> tuple[str, list[KeyRecord]]:
    """Where was looked, and all keys there that the arguments mean."""
    books = books_of(arguments)
    records = [record for book in books for record in book.read()]
    where = " or ".join(map(str, books))
    return where, [record for record in records if _is_meant(arguments, record)]


def _show(arguments: argparse.Namespace, now: float) -> None:
    where, meant = _meant(arguments)
    record = _only(meant, where)
    usage = usage_of(record, gateway_of(arguments)) if record.kind is KeyKind.CLIENT else None
    if arguments.json:
        print(json.dumps(key_json(record, usage, now)))
        return
    for line in key_story(record, usage, now):
        print(line)
    if usage is not None and usage.unknown:
        _tell(f"rolemesh keys: its usage is unknown: {printable(usage.unknown)}")


def _limit(arguments: argparse.Namespace, _now: float) -> None:
    limits = key_arguments.limits_of(arguments)
    if not limits:
        raise KeysError("say --rpm, --concurrency or --tokens-per-day, each a number or none")

    def limited(record: KeyRecord) -> tuple[str, KeyRecord]:
        if record.kind is not KeyKind.CLIENT:
            raise KeysError("limits are for client keys: the others ask for no tokens")
        return "", evolve(record, **limits)

    _, record = _change(arguments, limited)
    _tell(f"The limits of '{record.name}' ({record.id}) are now: {limits_text(record)}.")


def _rotate(arguments: argparse.Namespace, now: float) -> None:
    def turned(record: KeyRecord) -> tuple[str, KeyRecord]:
        end = record.expires_at if arguments.expires is None else now + arguments.expires
        renewed = evolve(record, expires_at=end)
        return rotate(renewed, os.urandom(SECRET_BYTES), now, arguments.overlap)

    text, record = _change(arguments, turned)
    print(text)
    until = shown_time(now + arguments.overlap)
    _tell(f"This is '{record.name}' from now on; the text before it works until {until}.")


def _revoke(arguments: argparse.Namespace, _now: float) -> None:
    _, record = _change(arguments, lambda record: ("", revoke(record)))
    _tell(f"'{record.name}' ({record.id}) opens nothing any more.")


_ACTIONS: Mapping[str, Callable[[argparse.Namespace, float], None]] = {
    "add": _add,
    "list": _list,
    "show": _show,
    "limit": _limit,
    "rotate": _rotate,
    "revoke": _revoke,
}


def _change(
    arguments: argparse.Namespace, change: Callable[[KeyRecord], tuple[str, KeyRecord]]
) -> tuple[str, KeyRecord]:
    """Put the changed record of the one key that the arguments mean in its place."""
    book = book_of(arguments, _kind(arguments))

    def changed(records: Sequence[KeyRecord]) -> tuple[list[KeyRecord], tuple[str, KeyRecord]]:
        old = _the_one(arguments, records, book)
        text, new = change(old)
        return [new if each is old else each for each in records], (text, new)

    return book.change(changed)


def _the_one(
    arguments: argparse.Namespace, records: Iterable[KeyRecord], book: KeyBook
) -> KeyRecord:
    if not (arguments.name or arguments.node):
        raise KeysError("say which with --name or --node (rolemesh keys list shows all)")
    meant = [each for each in records if _is_meant(arguments, each) and not each.disabled]
    return _only(meant, str(book))


def _only(meant: Sequence[KeyRecord], where: str) -> KeyRecord:
    if len(meant) == 1:
        return meant[0]
    which = "no such key" if not meant else f"{len(meant)} such keys, so say one's id instead,"
    raise KeysError(f"{which} in {where} (rolemesh keys list shows all)")


def _is_meant(arguments: argparse.Namespace, record: KeyRecord) -> bool:
    named = arguments.name in (None, record.name, record.id)
    return named and arguments.node in (None, record.node)


def _with_new(
    record: KeyRecord, records: Sequence[KeyRecord], book: KeyBook
) -> Sequence[KeyRecord]:
    for each in records:
        if each.id == record.id or (each.name == record.name and not each.disabled):
            raise KeysError(
                f"{book} has a key '{each.name}' already: choose another --name, or rotate it"
            )
    return (*records, record)


def _kind(arguments: argparse.Namespace) -> KeyKind:
    return KeyKind.NODE if arguments.node else KeyKind.CLIENT


def _roles_of(record: KeyRecord) -> str:
    if record.kind is KeyKind.ADMIN:
        return "operators, and opens no role"
    if record.roles == "*":
        return "every role (--roles narrows that)"
    return f"the roles {', '.join(record.roles)}"


def _ends(record: KeyRecord) -> str:
    if record.expires_at is None:
        return "never ends (--expires sets an end)"
    return f"ends at {shown_time(record.expires_at)}"


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
