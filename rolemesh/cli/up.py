"""`rolemesh up`: gateway and node agent in the foreground, for one box."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError

from rolemesh.config.locate import GATEWAY_FILE, NODE_FILE, Sought, find_config
from rolemesh.config.problems import ConfigError
from rolemesh.demo.foreground import Foreground
from rolemesh.demo.foreground import run as run_foreground
from rolemesh.demo.lines import Narrator

MISCONFIGURED = 78
_HINTS = {
    GATEWAY_FILE.file: "copy configs/models.example.yaml there",
    NODE_FILE.file: "copy configs/node_agent.example.yaml there"
    " (a gateway alone: twistd -n rolemesh-gateway)",
}


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("up", help="gateway and node agent in the foreground")
    command.set_defaults(run=run)
    command.add_argument("--config", metavar="FILE", help="the gateway's models.yaml")
    command.add_argument("--node-config", metavar="FILE", help="the node's node_agent.yaml")
    command.add_argument("--state", metavar="DIR", help="for what must survive a restart")


def run(arguments: argparse.Namespace) -> int:
    """Run both until Ctrl-C; 0, 78 without configuration, or what the first to end ended with."""
    try:
        gateway = _config(GATEWAY_FILE, arguments.config)
        node = _config(NODE_FILE, arguments.node_config)
    except ConfigError as error:
        print(f"rolemesh up: {error}", file=sys.stderr)
        return MISCONFIGURED
    state = ("--state", arguments.state) if arguments.state else ()

    async def main(_reactor: Any, foreground: Foreground) -> int:
        foreground.start("gateway", "rolemesh-gateway", "--config", str(gateway), *state)
        foreground.start("node", "rolemesh-node", "--config", str(node), *state)
        return await _until_one_ends(foreground)

    return run_foreground(main, Narrator(_say))


def _config(sought: Sought, given: str | None) -> Path:
    try:
        return find_config(sought, given, os.environ, Path.cwd(), Path.home())
    except ConfigError as error:
        raise Missing(f"{error}; {_HINTS[sought.file]}") from None


class Missing(ConfigError):
    """A configuration that is not there, and what to copy."""

    def __init__(self, line: str) -> None:
        super().__init__(())
        self._line = line

    def __str__(self) -> str:
        return self._line


async def _until_one_ends(foreground: Foreground) -> int:
    try:
        child = await foreground.first_to_end()
        _say(f"rolemesh up: the {child.name} ended with {child.code}, so all stops")
        return child.code if child.code and child.code > 0 else 1
    except CancelledError:
        return 0
    finally:
        await foreground.stop()


def _say(line: str) -> None:
    print(line, flush=True)
