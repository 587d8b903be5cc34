"""`rolemesh restart NODE/BACKEND`: end that llama-server, and start it again."""

import argparse
from typing import Any

from rolemesh.cli.gateway_arguments import add_gateway_arguments, backend
from rolemesh.cli.verbs import send


def register(commands: Any) -> None:
    """Add the command to the command line."""
    does = "end a llama-server, with what it is answering, and start it again"
    command = commands.add_parser("restart", help=does, description=does)
    command.add_argument("target", type=backend, metavar="NODE/BACKEND")
    add_gateway_arguments(command, admin=True)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Restart it; 0 when it has begun to."""
    return send(arguments, "restart")
