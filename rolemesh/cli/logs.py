"""`rolemesh logs NODE/BACKEND [-f]`: what a llama-server writes, from wherever it runs."""

import argparse
import json
import sys
from collections.abc import Iterator
from typing import Any

from attrs import evolve

from rolemesh.cli.client import Failed, Gateway, reason
from rolemesh.cli.gateway_arguments import add_gateway_arguments, backend, gateway_of
from rolemesh.config.problems import printable

SILENCE = 30.0  # seconds; a gateway says every ten that it is there


def register(commands: Any) -> None:
    """Add the command to the command line."""
    does = "the last lines of a llama-server, and with -f what follows"
    command = commands.add_parser("logs", help=does, description=does)
    command.add_argument("target", type=backend, metavar="NODE/BACKEND")
    command.add_argument("-f", "--follow", action="store_true", help="go on until Ctrl-C")
    command.add_argument("-n", "--lines", type=int, default=200, metavar="N", help="default: 200")
    add_gateway_arguments(command, admin=True)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; 0 when there is such a log, else 1."""
    path = f"{arguments.target.path('logs')}?lines={max(0, arguments.lines)}"
    gateway = gateway_of(arguments)
    try:
        for part in _followed(gateway, path) if arguments.follow else _once(gateway, path):
            _show(part, arguments.json)
    except Failed as error:
        print(f"rolemesh logs: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


def _once(gateway: Gateway, path: str) -> Iterator[Any]:
    yield gateway.ask("GET", path).good()


def _followed(gateway: Gateway, path: str) -> Iterator[Any]:
    for data in evolve(gateway, patience=SILENCE).follow(f"{path}&follow=1"):
        part = json.loads(data)
        if "error" in part:
            raise Failed(reason(part))
        yield part


def _show(part: Any, as_json: bool) -> None:
    for line in part["lines"]:
        print(json.dumps(line) if as_json else printable(line), flush=True)
