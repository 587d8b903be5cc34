"""`rolemesh usage`: which key has used how much of which role, day by day."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rolemesh.cli.client import Failed
from rolemesh.cli.gateway_arguments import add_gateway_arguments, gateway_of
from rolemesh.cli.shown import refuse
from rolemesh.cli.table import table
from rolemesh.config.problems import printable

_COLUMNS = ("DAY", "KEY", "ROLE", "REQUESTS", "PROMPT", "CACHED", "COMPLETION")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("usage", help="requests and tokens by day, key and role")
    command.add_argument("--days", type=int, default=7, metavar="N", help="default: 7; at most 31")
    add_gateway_arguments(command, admin=True)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; 0 when the gateway tells, else 1."""
    try:
        answer = gateway_of(arguments).ask("GET", f"/v1/usage?days={arguments.days}")
        rows = answer.good()["data"]
    except Failed as error:
        return refuse("usage", error)
    if arguments.json:
        print(answer.body.decode())
        return 0
    for line in story(rows, arguments.days):
        print(printable(line))
    return 0


def story(rows: Sequence[Mapping[str, Any]], days: int) -> Iterator[str]:
    """What was used, line by line."""
    if not rows:
        yield f"nothing was asked for in {days} days"
        return
    yield from table([_COLUMNS, *map(_row, rows)])


def figures(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The sums of REQUESTS, PROMPT, CACHED and COMPLETION."""
    names = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")
    return tuple(str(sum(row[name] for row in rows)) for name in names)


def _row(row: Mapping[str, Any]) -> tuple[str, ...]:
    return (row["day"], row["name"] or row["key"] or "-", row["role"], *figures([row]))
