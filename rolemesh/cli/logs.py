"""`rolemesh logs NODE/BACKEND [-f]`: what a llama-server writes, from wherever it runs."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from random import random
from time import sleep
from typing import Any
from urllib.parse import quote

from attrs import evolve

from rolemesh.cli.client import Failed, Gateway, Refused, reason
from rolemesh.cli.gateway_arguments import add_gateway_arguments, backend, gateway_of
from rolemesh.cli.shown import refuse
from rolemesh.config.problems import printable
from rolemesh.core.endings import backoff

SILENCE = 30.0  # seconds; a gateway says every ten that it is there
FIRST_RETRY, LAST_RETRY = 0.5, 15.0  # seconds between tries to go on

# Of a gateway that begins anew, whose node has not registered again, or of a load balancer.
_PASSING = (408, 410, 429)


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
    try:
        gateway = gateway_of(arguments)
        if arguments.follow:
            follow = Follow(evolve(gateway, patience=SILENCE), f"{path}&follow=1", sleep)
            parts = follow.parts()
        else:
            parts = iter([gateway.ask("GET", path).good()])
        for part in parts:
            _show(part, arguments.json)
    except Failed as error:
        return refuse("logs", error)
    return 0


class Follow:
    """A log that goes on where it was when the gateway, or the node, has been away."""

    def __init__(self, gateway: Gateway, path: str, sleep: Callable[[float], None]) -> None:
        self._gateway = gateway
        self._path = path
        self._sleep = sleep
        self._begun = False
        self._after = ""
        self._failures = 0

    def parts(self) -> Iterator[Any]:
        """Each part once, without an end.

        :raises Failed: when it cannot begin, and once the gateway refuses it.
        """
        while True:
            try:
                yield from self._until_it_ends()
                why = "the log ended"
            except Failed as problem:
                if not self._may_pass(problem):
                    raise
                why = str(problem)
            self._pause(why)

    def _until_it_ends(self) -> Iterator[Any]:
        after = f"&after={quote(self._after, safe='')}" if self._after else ""
        for data in self._gateway.follow(self._path + after):
            part = json.loads(data)
            if "error" in part:
                raise Failed(reason(part))
            self._go_on()
            self._after = part.get("at") or self._after
            yield part

    def _may_pass(self, problem: Failed) -> bool:
        status = problem.status if isinstance(problem, Refused) else 500
        return self._begun and (status >= 500 or status in _PASSING)

    def _go_on(self) -> None:
        if self._failures:
            print("rolemesh logs: here it goes on", file=sys.stderr, flush=True)
        self._begun, self._failures = True, 0

    def _pause(self, why: str) -> None:
        self._failures += 1
        wait = backoff(self._failures, FIRST_RETRY, LAST_RETRY, random())
        if self._failures == 1:
            told = f"rolemesh logs: {printable(why)}; it goes on once that is over (Ctrl-C ends it)"
            print(told, file=sys.stderr, flush=True)
        self._sleep(wait)


def _show(part: Any, as_json: bool) -> None:
    for line in part["lines"]:
        print(json.dumps(line) if as_json else printable(line), flush=True)
