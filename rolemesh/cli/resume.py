"""`rolemesh resume NODE[/BACKEND]`: what was drained takes requests again."""

import argparse
from typing import Any

from rolemesh.cli.gateway_arguments import add_gateway_arguments, target
from rolemesh.cli.verbs import send


def register(commands: Any) -> None:
    """Add the command to the command line."""
    does = "let a drained node, or one backend, take requests again"
    command = commands.add_parser("resume", help=does, description=does)
    command.add_argument("target", type=target, metavar="NODE[/BACKEND]")
    add_gateway_arguments(command, admin=True)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Resume it; 0 when it is done."""
    return send(arguments, "resume")
