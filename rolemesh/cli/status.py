"""`rolemesh status`: is every role served, and if not, why not."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from rolemesh.cli.client import Failed
from rolemesh.cli.gateway_arguments import add_gateway_arguments, gateway_of
from rolemesh.cli.shown import refuse
from rolemesh.config.problems import printable


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("status", help="is every role served, and if not, why not")
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; 0 when the gateway serves something, else 1."""
    try:
        answer = gateway_of(arguments).ask("GET", "/ready")
        told = answer.json() if answer.status == 503 else answer.good()
        lines = list(story(told)) if "status" in told else []
    except Failed as error:
        return refuse("status", error)
    if arguments.json:
        print(answer.body.decode())
    for line in () if arguments.json else lines:
        print(printable(line))
    return 0 if answer.status == 200 else 1


def story(told: Mapping[str, Any]) -> Iterator[str]:
    """A gateway and its roles, line by line."""
    yield f"gateway: {told['status']}"
    yield from (f"  warning: {each}" for each in told.get("warnings", ()))
    if "roles" not in told:
        yield "  its roles are told to who has a key: --key or $ROLEMESH_KEY"
        return
    if not told["roles"]:
        yield "  no role is listed or announced"
    for name, role in told["roles"].items():
        yield f"  {name}: ready {role['ready']}/{role['total']}"
        yield from (f"    {each}" for each in role["missing"])
