"""`rolemesh models`: the roles that a key may ask for, and how well each is served."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from rolemesh.cli.gateway_arguments import add_gateway_arguments
from rolemesh.cli.shown import shown
from rolemesh.cli.table import table

_COLUMNS = ("MODEL", "READY", "CONTEXT", "ALIASES")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("models", help="what a client may put in `model`")
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show them; 0 when the gateway tells, else 1."""
    return 0 if shown(arguments, "models", "/v1/models", story) else 1


def story(told: Mapping[str, Any]) -> Iterator[str]:
    """Roles, line by line."""
    yield from table([_COLUMNS, *map(_row, told["data"])])


def _row(model: Mapping[str, Any]) -> tuple[str, ...]:
    about = model["rolemesh"]
    ready = f"{about['ready']}/{about['total']}"
    context = str(model.get("context_length", "?"))
    return (model["id"], ready, context, ", ".join(about["aliases"]))
