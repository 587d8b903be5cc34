"""How a command asks a gateway something, shows what it says, and tells what went wrong."""

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rolemesh.cli.client import Failed
from rolemesh.cli.gateway_arguments import gateway_of
from rolemesh.config.problems import printable


def shown(
    arguments: argparse.Namespace,
    command: str,
    path: str,
    story: Callable[[Any], Iterable[str]],
    body: Mapping[str, Any] | None = None,
) -> Any:
    """What the gateway says, once its story was printed, or with `--json` the very answer; None
    when it says nothing good, once the reason was told."""
    try:
        answer = gateway_of(arguments).ask("GET" if body is None else "POST", path, body)
        told = answer.good()
    except Failed as error:
        refuse(command, error)
        return None
    for line in [answer.body.decode()] if arguments.json else map(printable, story(told)):
        print(line)
    return told


def refuse(command: str, problem: Exception | str) -> int:
    """Tell on standard error, in one line, why a command cannot do it; its exit code. What goes
    into a pipe or a file stays free of it."""
    print(f"rolemesh {command}: {printable(str(problem))}", file=sys.stderr)
    return 1
