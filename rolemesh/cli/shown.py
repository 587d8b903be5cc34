"""How a command asks a gateway something, and shows what it says."""

import argparse
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
    when it says nothing good, once the reason was printed."""
    try:
        answer = gateway_of(arguments).ask("GET" if body is None else "POST", path, body)
        told = answer.good()
    except Failed as error:
        print(f"rolemesh {command}: {printable(str(error))}")
        return None
    for line in [answer.body.decode()] if arguments.json else map(printable, story(told)):
        print(line)
    return told
