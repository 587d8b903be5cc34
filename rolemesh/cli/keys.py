"""`rolemesh keys`: make, list, rotate and revoke client keys, admin keys and node tokens."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from attrs import evolve, frozen

from rolemesh.cli import key_arguments
from rolemesh.cli.key_table import key_table, shown_time
from rolemesh.config.gateway import load_gateway
from rolemesh.config.keyfile import key_file_text, read_key_file
from rolemesh.config.locate import GATEWAY_FILE, NoConfiguration, find_config
from rolemesh.config.private import lock_beside, write_private
from rolemesh.config.problems import ConfigError
from rolemesh.core.keys import (
    ENTROPY,
    SCOPES,
    SECRET_BYTES,
    KeyKind,
    KeyRecord,
    mint,
    revoke,
    rotate,
)


@frozen
class _Use:
    """The default file of a kind of keys, the setting that names it, and what to do next."""

    file: str
    setting: str
    next: str


_USES: Mapping[KeyKind, _Use] = {
    KeyKind.CLIENT: _Use(
        "keys.yaml",
        "gateway:\n  keys: {file: FILE}",
        "Clients send it as their API key.",
    ),
    KeyKind.NODE: _Use(
        "nodes.yaml",
        "gateway:\n  nodes:\n    tokens: {file: FILE}",
        "On the node, put it into node.token (chmod 600), and into node_agent.yaml the line\n"
        "token: {file: node.token}",
    ),
    KeyKind.ADMIN: _Use(
        "keys.yaml",
        "gateway:\n  keys: {file: FILE}",
        "Operators put it into $ROLEMESH_ADMIN_KEY, for `rolemesh drain` and its like.",
    ),
}


class KeysError(Exception):
    """What the command cannot do, and what to do instead."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `keys` to the commands; its `run` is in the arguments that the parser returns."""
    parser = subparsers.add_parser("keys", help="make, list, rotate and revoke keys and tokens")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = _action(actions, "add", "make a client key, or with --node a node token")
    _add_rights(add)
    add.add_argument("--admin", action="store_true", help="an operator's key, which opens no role")
    _action(actions, "list", "show who may do what; never a key")
    turned = _action(actions, "rotate", "give a key a new text; the old one works on for a while")
    turned.add_argument(
        "--overlap", type=key_arguments.span, default=86400.0, metavar="1d", help="for how long"
    )
    turned.add_argument(
        "--expires", type=key_arguments.span, metavar="90d", help="let the key end after this"
    )
    _action(actions, "revoke", "end a key now")


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; 0, or 1 or 78 with the reason on standard error."""
    try:
        _ACTIONS[arguments.action](arguments, time.time())
    except NoConfiguration as error:
        _tell(f"{error}; name the key file with --file")
        return 78
    except ConfigError as error:
        _tell(str(error))
        return 78
    except KeysError as error:
        _tell(f"rolemesh keys: {error}")
        return 1
    except OSError as error:
        _tell(f"rolemesh keys: {error.filename}: {error.strerror}; name another with --file")
        return 1
    return 0


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=does, description=does)
    parser.add_argument("--file", type=Path, help="the key file, when not the gateway's own")
    parser.add_argument("--name", type=key_arguments.line, help="what the key is called, or its id")
    parser.add_argument(
        "--node", type=key_arguments.node, help="a node's token, not a client's key"
    )
    return parser


def _add_rights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--roles", type=key_arguments.roles, default="*", metavar="a,b|*", help="default: *"
    )
    scopes = ",".join(SCOPES[KeyKind.CLIENT])
    parser.add_argument(
        "--scopes", type=key_arguments.scopes, metavar=scopes, help="default: all of these"
    )
    parser.add_argument("--expires", type=key_arguments.span, metavar="90d", help="default: never")
    parser.add_argument(
        "--network", type=key_arguments.network, action="append", default=[], metavar="CIDR",
        help="only from there; may be given again; default: from anywhere",
    )  # fmt: skip
    parser.add_argument("--note", type=key_arguments.line, help="anything, for yourself")


def _add(arguments: argparse.Namespace, now: float) -> None:
    kind = KeyKind.ADMIN if arguments.admin else _kind(arguments)
    if kind is not KeyKind.CLIENT and arguments.scopes:
        raise KeysError("--scopes is for client keys: the others may do one thing")
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
    )
    path = _file(arguments, kind)
    with lock_beside(path):
        records = read_key_file(path) if path.exists() else ()
        _must_be_free(record, records, path)
        write_private(path, key_file_text((*records, record)))
    print(text)
    _tell(f"'{record.name}' is in {path}. The line above is its only showing: keep it safe.")
    _tell(f"It is for {_roles_of(record)} and {_ends(record)}.")
    _tell_use(kind, path)


def _list(arguments: argparse.Namespace, now: float) -> None:
    files = [arguments.file] if arguments.file else list(dict.fromkeys(map(_own_file, _USES)))
    records = [record for path in files if path.exists() for record in read_key_file(path)]
    wanted = [record for record in records if _is_meant(arguments, record)]
    if not wanted:
        _tell(f"No such key in {' or '.join(map(str, files))}. Make one: rolemesh keys add")
        return
    for line in key_table(wanted, now):
        print(line)


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
    "rotate": _rotate,
    "revoke": _revoke,
}


def _change(
    arguments: argparse.Namespace, change: Callable[[KeyRecord], tuple[str, KeyRecord]]
) -> tuple[str, KeyRecord]:
    """Put the changed record of the one key that the arguments mean into its file."""
    path = _file(arguments, _kind(arguments))
    with lock_beside(path):
        records = read_key_file(path)
        old = _the_one(arguments, records, path)
        text, new = change(old)
        write_private(path, key_file_text(new if each is old else each for each in records))
    return text, new


def _the_one(arguments: argparse.Namespace, records: Iterable[KeyRecord], path: Path) -> KeyRecord:
    if not (arguments.name or arguments.node):
        raise KeysError("say which with --name or --node (rolemesh keys list shows all)")
    meant = [each for each in records if _is_meant(arguments, each) and not each.disabled]
    if len(meant) == 1:
        return meant[0]
    which = "no such key" if not meant else f"{len(meant)} such keys, so say one's id with --name,"
    raise KeysError(f"{which} in {path} (rolemesh keys list shows all)")


def _is_meant(arguments: argparse.Namespace, record: KeyRecord) -> bool:
    named = arguments.name in (None, record.name, record.id)
    return named and arguments.node in (None, record.node)


def _must_be_free(record: KeyRecord, records: Iterable[KeyRecord], path: Path) -> None:
    for each in records:
        if each.id == record.id or (each.name == record.name and not each.disabled):
            raise KeysError(
                f"{path} has a key '{each.name}' already: choose another --name, or rotate it"
            )


def _kind(arguments: argparse.Namespace) -> KeyKind:
    return KeyKind.NODE if arguments.node else KeyKind.CLIENT


def _file(arguments: argparse.Namespace, kind: KeyKind) -> Path:
    return arguments.file or _own_file(kind)


def _own_file(kind: KeyKind) -> Path:
    config = _gateway_file()
    return _named_file(kind, config) or config.with_name(_USES[kind].file)


def _gateway_file() -> Path:
    return find_config(GATEWAY_FILE, None, os.environ, Path.cwd(), Path.home())


def _named_file(kind: KeyKind, config: Path) -> Path | None:
    settings = load_gateway(config, os.environ)
    return settings.nodes.tokens if kind is KeyKind.NODE else settings.keys


def _tell_use(kind: KeyKind, path: Path) -> None:
    use = _USES[kind]
    _tell(use.next)
    if _is_in_use(kind, path):
        _tell("The gateway takes it within a second.")
        return
    setting = use.setting.replace("FILE", str(path.resolve()))
    _tell(f"The gateway asks for it once {GATEWAY_FILE.file} says so; add there, and restart it:")
    _tell(setting)


def _is_in_use(kind: KeyKind, path: Path) -> bool:
    """Whether the gateway's configuration names a key file, as far as that can be told."""
    try:
        named = _named_file(kind, _gateway_file())
    except ConfigError:
        return False
    return named is not None and named.resolve() == path.resolve()


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
