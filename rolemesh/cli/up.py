"""`rolemesh up`: gateway and node agent in the foreground, for one box."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError

from rolemesh.cli.first_files import USUAL_GATEWAY
from rolemesh.cli.init import folder_of, write_first_files
from rolemesh.cli.shown import refuse
from rolemesh.cli.survey import Impossible, Looked
from rolemesh.config.locate import GATEWAY_FILE, NODE_FILE, NoConfiguration, Sought, find_config
from rolemesh.config.node import load_node
from rolemesh.config.problems import ConfigError
from rolemesh.demo.foreground import Foreground
from rolemesh.demo.foreground import run as run_foreground
from rolemesh.demo.lines import Narrator

MISCONFIGURED = 78


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
        _write_missing(arguments)
        gateway = _config(GATEWAY_FILE, arguments.config)
        node = _config(NODE_FILE, arguments.node_config)
    except (ConfigError, Impossible) as error:
        print(f"rolemesh up: {error}", file=sys.stderr)
        return MISCONFIGURED
    except OSError as error:
        print(f"rolemesh up: {error.filename}: {error.strerror}", file=sys.stderr)
        return MISCONFIGURED
    state = ("--state", arguments.state) if arguments.state else ()

    async def main(_reactor: Any, foreground: Foreground) -> int:
        foreground.start("gateway", "rolemesh-gateway", "--config", str(gateway), *state)
        foreground.start("node", "rolemesh-node", "--config", str(node), *state)
        return await _until_one_ends(foreground)

    return run_foreground(main, Narrator(_say))


def _write_missing(arguments: argparse.Namespace) -> None:
    """On the first day: what `rolemesh init` writes, for the files that are not there."""
    given = {GATEWAY_FILE: arguments.config, NODE_FILE: arguments.node_config}
    missing = [sought.file for sought, named in given.items() if not _stands(sought, named)]
    if missing:
        _refuse_member(missing, arguments.node_config)
        _say(f"There is no {' and no '.join(missing)} yet, so here is what `rolemesh init` does")
        looked = Looked(os.environ, Path.cwd(), Path.home())
        write_first_files(looked, folder_of(None), missing)


def _refuse_member(missing: Sequence[str], node: str | None) -> None:
    """A box that joined another gateway has no use for one of its own."""
    if missing != [GATEWAY_FILE.file]:
        return
    path = _config(NODE_FILE, node)
    gateways = load_node(path, os.environ).gateways
    if USUAL_GATEWAY not in gateways:
        raise Impossible(
            f"there is no {GATEWAY_FILE.file}, and {path} belongs to {' and '.join(gateways)};"
            " to run that node alone: twistd -n rolemesh-node"
        )


def _stands(sought: Sought, named: str | None) -> bool:
    try:
        _config(sought, named)
    except NoConfiguration:
        return False
    return True


def _config(sought: Sought, given: str | None) -> Path:
    return find_config(sought, given, os.environ, Path.cwd(), Path.home())


async def _until_one_ends(foreground: Foreground) -> int:
    try:
        child = await foreground.first_to_end()
        refuse("up", f"the {child.name} ended with {child.code}, so all stops")
        return child.code if child.code and child.code > 0 else 1
    except CancelledError:
        return 0
    finally:
        await foreground.stop()


def _say(line: str) -> None:
    print(line, flush=True)
