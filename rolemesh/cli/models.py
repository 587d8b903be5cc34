"""`rolemesh models`: the roles that a key may ask for, and how well each is served."""

import argparse
from collections.abc import Mapping
from typing import Any

from rolemesh.cli.client import Failed
from rolemesh.cli.gateway_arguments import add_gateway_arguments, gateway_of
from rolemesh.cli.table import table
from rolemesh.config.problems import printable

_COLUMNS = ("MODEL", "READY", "CONTEXT", "ALIASES")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("models", help="what a client may put in `model`")
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show them; 0 when the gateway tells, else 1."""
    try:
        answer = gateway_of(arguments).ask("GET", "/v1/models")
        models = answer.good()["data"]
    except Failed as error:
        print(f"rolemesh models: {printable(str(error))}")
        return 1
    if arguments.json:
        print(answer.body.decode())
        return 0
    for line in table([_COLUMNS, *map(_row, models)]):
        print(printable(line))
    return 0


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    about = model["rolemesh"]
    ready = f"{about['ready']}/{about['total']}"
    context = str(model.get("context_length", "?"))
    return (model["id"], ready, context, ", ".join(about["aliases"]))
