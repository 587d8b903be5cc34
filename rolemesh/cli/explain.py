"""`rolemesh explain ROLE`: where a request would go now, and why not elsewhere."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from rolemesh.cli.gateway_arguments import add_gateway_arguments
from rolemesh.cli.shown import shown


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("explain", help="where a request for a role would go, and why")
    command.add_argument("role", metavar="ROLE")
    command.add_argument("prompt", nargs="?", default="", help="a prompt, which counts for caches")
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the decision; 0 when there is a backend, else 1."""
    body = {"messages": [{"role": "user", "content": arguments.prompt}]}
    path = f"/v1/roles/{quote(arguments.role, safe='')}/explain"
    decision = shown(arguments, "explain", path, story, body)
    return 0 if decision and decision["choice"] else 1


def story(decision: Mapping[str, Any]) -> Iterator[str]:
    """A decision, line by line."""
    about = f"{decision['role']} ({decision['policy']}, about {decision['tokens']} tokens)"
    if decision["choice"]:
        yield f"{about}: {decision['choice']}: {decision['route']}"
    elif "waits" in decision:
        yield f"{about}: would wait, for {decision['waits']}"
    else:
        yield f"{about}: {decision['refusal']}"
    for candidate in decision["candidates"]:
        if "refused" in candidate:
            yield f"  {candidate['backend']}: no, {candidate['refused']}"
        else:
            yield f"  {candidate['backend']}: {candidate['seconds']:.3f} s to the first token"
