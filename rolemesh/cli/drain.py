"""`rolemesh drain NODE[/BACKEND]`: no new requests there, and running ones go on."""

import argparse
from typing import Any

from rolemesh.cli.gateway_arguments import add_gateway_arguments, target
from rolemesh.cli.key_arguments import line, span
from rolemesh.cli.verbs import send


def register(commands: Any) -> None:
    """Add the command to the command line."""
    does = "send a node, or one backend, no new requests; also after a reboot"
    command = commands.add_parser("drain", help=does, description=does)
    command.add_argument("target", type=target, metavar="NODE[/BACKEND]")
    command.add_argument(
        "--for", dest="seconds", type=span, metavar="2h", help="default: until resumed"
    )
    command.add_argument("--reason", type=line, metavar="TEXT", help="shown to whoever looks")
    add_gateway_arguments(command, admin=True)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Drain it; 0 when it is done."""
    wish: dict[str, Any] = {"reason": arguments.reason or ""}
    if arguments.seconds is not None:
        wish["for_s"] = arguments.seconds
    return send(arguments, "drain", wish)
