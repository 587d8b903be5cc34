"""How an operator's verb goes to a gateway, and what came of it is told."""

import argparse
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

from rolemesh.cli.client import Failed
from rolemesh.cli.gateway_arguments import gateway_of
from rolemesh.cli.shown import refuse
from rolemesh.config.problems import printable


def send(arguments: argparse.Namespace, verb: str, wish: Mapping[str, Any] | None = None) -> int:
    """Have it done, and say so; 0 when it is done, else 1."""
    body = {"id": uuid4().hex, **(wish or {})}
    try:
        answer = gateway_of(arguments).ask("POST", arguments.target.path(verb), body)
        told = answer.json() if answer.status == 202 else answer.good()
    except Failed as error:
        return refuse(verb, error)
    print(answer.body.decode() if arguments.json else printable(told["message"]))
    return 0 if told["done"] else 1
