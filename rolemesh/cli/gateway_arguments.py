"""What every command takes that asks a gateway, and what it names there."""

import argparse
import os
import re
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

from rolemesh.cli.client import Failed, Gateway, base_url
from rolemesh.config.tls import Trust
from rolemesh.core.pins import read_pin

DEFAULT_URL = "http://127.0.0.1:8000"
KEY, ADMIN_KEY = "ROLEMESH_KEY", "ROLEMESH_ADMIN_KEY"
CA, PIN = "ROLEMESH_CA", "ROLEMESH_PIN"

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_TARGET = re.compile(f"(?P<node>{_NAME})(?:/(?P<backend>{_NAME}))?")


@frozen
class Target:
    """A node, or one of its backends."""

    node: str
    backend: str | None = None

    def __str__(self) -> str:
        return f"{self.node}/{self.backend}" if self.backend else self.node

    def path(self, verb: str) -> str:
        """Where a gateway takes that verb for it."""
        if self.backend is None:
            return f"/v1/nodes/{quote(self.node)}/{verb}"
        return f"/v1/backends/{quote(self.node)}/{quote(self.backend)}/{verb}"


def target(text: str) -> Target:
    """`NODE` or `NODE/BACKEND`, for argparse."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not NODE or NODE/BACKEND, such as box2/gpu0")
    return Target(found["node"], found["backend"])


def backend(text: str) -> Target:
    """`NODE/BACKEND`, for argparse."""
    found = target(text)
    if found.backend is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not NODE/BACKEND, such as {text}/gpu0")
    return found


def add_gateway_arguments(command: argparse.ArgumentParser, admin: bool = False) -> None:
    """Where the gateway is, and by which key it is asked."""
    command.add_argument("--url", type=base_url, default=base_url(DEFAULT_URL), help=DEFAULT_URL)
    kind, variables = ("an admin", f"${ADMIN_KEY}, ${KEY}") if admin else ("a client", f"${KEY}")
    command.add_argument("--key", help=f"{kind} key (default: {variables})")
    add_trust_arguments(command)
    command.add_argument("--json", action="store_true", help="the answer as it came")
    command.set_defaults(key_variables=(ADMIN_KEY, KEY) if admin else (KEY,))


def gateway_of(arguments: argparse.Namespace) -> Gateway:
    """The gateway that a command's arguments name."""
    found = (os.environ.get(variable) for variable in arguments.key_variables)
    key = arguments.key or next(filter(None, found), None)
    return Gateway(arguments.url, key, trust=trust_of(arguments))


def add_trust_arguments(command: argparse.ArgumentParser) -> None:
    """By what a gateway with https is known."""
    either = command.add_mutually_exclusive_group()
    either.add_argument(
        "--ca", type=Path, help=f"the CA of its certificate, a file (default: ${CA})"
    )
    either.add_argument("--pin", type=pin, help=f"the pin of its key (default: ${PIN})")


def trust_of(arguments: argparse.Namespace) -> Trust:
    """By what a command's arguments, else the environment, say that the gateway is known.

    :raises Failed: when $ROLEMESH_PIN is none.
    """
    if arguments.ca or arguments.pin:
        return Trust(arguments.ca, (arguments.pin,) if arguments.pin else ())
    ca, pins = os.environ.get(CA), os.environ.get(PIN)
    try:
        return Trust(Path(ca) if ca else None, (read_pin(pins),) if pins else ())
    except ValueError as error:
        raise Failed(f"${PIN}: {error}") from None


def pin(text: str) -> str:
    """A pin, for argparse."""
    try:
        return read_pin(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
