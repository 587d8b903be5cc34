"""`rolemesh invite`: one line, made on the gateway's box, by which another box joins."""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from rolemesh.certificates import BadPem, pin_of, read_certificates
from rolemesh.cli import key_arguments
from rolemesh.cli.client import base_url
from rolemesh.cli.databases import NoDatabase
from rolemesh.cli.gateway_urls import door_for_nodes, is_loopback, reached_at
from rolemesh.cli.key_places import add_place_arguments, book_of
from rolemesh.cli.key_table import shown_time
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.keybook import BookClosed, KeyBook, Records
from rolemesh.config.listeners import Listener
from rolemesh.config.locate import GATEWAY_FILE, NoConfiguration, find_config
from rolemesh.config.problems import ConfigError
from rolemesh.core.invites import VALID, Invite, invited, new_invite, write_code
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord

LONGEST = 7 * 86400.0  # seconds; who waits longer makes another


class Cannot(Exception):
    """Why there is no invite, and what to do."""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "invite",
        help="one line by which another box joins",
        description="Prints a line for the other box, `rolemesh join rmj_…`. It is valid once and"
        " for half an hour, and keeps nothing secret here but a hash.",
    )
    command.set_defaults(run=run)
    command.add_argument("node", type=key_arguments.node, help="what the other box will be called")
    command.add_argument(
        "--roles",
        type=key_arguments.roles,
        default="*",
        metavar="a,b|*",
        help="the roles it may serve, and will announce (default: any, each model by its name)",
    )
    command.add_argument(
        "--for", dest="seconds", type=_span, default=VALID, metavar="30m", help="how long it holds"
    )
    command.add_argument(
        "--url",
        action="append",
        type=base_url,
        default=[],
        help="where that box reaches the gateway; may be given again (default: what its file says)",
    )
    add_place_arguments(command)


def run(arguments: argparse.Namespace) -> int:
    """Print the line; 0, or 1 or 78 with the reason."""
    try:
        return _invite(arguments, time.time())
    except NoConfiguration as error:
        return _refuse(f"{error}; `rolemesh init` writes one, or say --file and --url", 78)
    except ConfigError as error:
        return _refuse(str(error), 78)
    except (Cannot, BookClosed, NoDatabase) as error:
        return _refuse(str(error), 1)


def _invite(arguments: argparse.Namespace, now: float) -> int:
    settings = _settings(arguments)
    book = _book(arguments, settings)
    door = door_for_nodes(settings.listen if settings else ())
    urls = _urls(arguments, settings, door)
    roles = () if arguments.roles == "*" else arguments.roles
    key, record = new_invite(os.urandom(ENTROPY), arguments.node, roles, now, arguments.seconds)
    until = int(now + arguments.seconds)
    code = write_code(Invite(urls, arguments.node, key, until, roles, _pin(urls, door)))
    _tell_story(_write(book, record, now), record, urls)
    print(f"rolemesh join {code}", flush=True)
    return 0


def _settings(arguments: argparse.Namespace) -> GatewaySettings | None:
    """None when all that it would tell is told by the arguments."""
    if arguments.url and (arguments.file or arguments.store):
        return None
    sought = (GATEWAY_FILE, arguments.config, os.environ, Path.cwd(), Path.home())
    return load_gateway(find_config(*sought), os.environ)


def _book(arguments: argparse.Namespace, settings: GatewaySettings | None) -> KeyBook:
    placed = arguments.file or arguments.store
    if not placed and settings and settings.nodes.tokens is None:
        raise Cannot(
            "this gateway asks nodes for no tokens, so there is nothing to invite them to. Add to"
            f" {GATEWAY_FILE.file}, and restart the gateway when the invite is made:\n"
            "gateway:\n  nodes:\n    tokens: {file: nodes.yaml}"
        )
    return book_of(arguments, KeyKind.NODE)


def _urls(
    arguments: argparse.Namespace, settings: GatewaySettings | None, door: Listener | None
) -> tuple[str, ...]:
    if arguments.url:
        return tuple(each.geturl() for each in arguments.url)
    advertised = settings.nodes.advertise if settings else None
    url = advertised or (reached_at(door) if door else None)
    if url is None:
        raise Cannot("the gateway's file does not tell where nodes reach it: say so with --url")
    return (url,)


def _pin(urls: tuple[str, ...], door: Listener | None) -> str:
    """The pin of the gateway's own certificate, where nodes are to meet it."""
    if door is None or door.tls is None or not urls[0].startswith("https://"):
        return ""
    try:
        return pin_of(read_certificates(door.tls.cert.read_bytes())[0])
    except (OSError, BadPem) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise Cannot(f"the gateway's certificate {door.tls.cert}: {why}") from None


def _write(book: KeyBook, record: KeyRecord, now: float) -> Records:
    """Keep the invite's hash; the records of before."""

    def change(records: Records) -> tuple[Records, Records]:
        return invited(records, record, now), records

    return book.change(change)


def _tell_story(before: Records, record: KeyRecord, urls: tuple[str, ...]) -> None:
    tokens = [each for each in before if each.node == record.node and not each.disabled]
    for each in tokens:
        if each.kind is KeyKind.NODE:
            _tell(
                f"'{each.node}' has the token {each.id} already; if that is to end:"
                f" rolemesh keys revoke --node {each.node} --name {each.id}"
            )
        else:
            _tell(f"The invite of before for '{each.node}' no longer holds.")
    end = shown_time(record.expires_at or 0.0)
    _tell(f"Run this on the box that becomes '{record.node}', where RoleMesh is, before {end}.")
    _tell(f"It will call the gateway at {' or '.join(urls)}.")
    if all(map(is_loopback, urls)):
        _tell("That is this machine alone: no other box can join before the gateway listens there.")


def _span(text: str) -> float:
    seconds = key_arguments.span(text)
    if not 60 <= seconds <= LONGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not between 1m and 7d")
    return seconds


def _refuse(text: str, code: int) -> int:
    _tell(f"rolemesh invite: {text}")
    return code


def _tell(text: str) -> None:
    print(text, file=sys.stderr)
