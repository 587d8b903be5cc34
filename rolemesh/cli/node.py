"""`rolemesh node status|argv`: the node on this machine, asked without a gateway and a key."""

import argparse
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from rolemesh.config.locate import find_state
from rolemesh.config.problems import printable
from rolemesh.core.local import (
    LONGEST,
    SOCKET,
    GatewayStanding,
    NodeStatus,
    ServerStatus,
    read_status,
)

PATIENCE = 5.0  # seconds
_LONGEST_PATH = 107  # bytes; Linux takes no more for a socket


class NoNode(Exception):
    """The node could not be asked, told in one line."""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("node", help="the node on this machine, without a gateway")
    actions = command.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, does in (
        ("status", "how its servers are, and how it stands with its gateways"),
        ("argv", "the command line of each of its servers"),
    ):
        action = actions.add_parser(name, help=does, description=does)
        action.add_argument("--state", help="the node's state folder, where it is not the usual")
        action.add_argument("--json", action="store_true", help="all that it tells")
        if name == "argv":
            action.add_argument("backend", nargs="?", metavar="BACKEND", help="default: each")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show it; 0 when the node tells, else 1."""
    folder = find_state(arguments.state, os.environ, Path.cwd(), Path.home())
    try:
        said = ask(folder / SOCKET)
        status = read_status(said)
    except (NoNode, msgspec.MsgspecError) as error:
        print(f"rolemesh node: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(said.decode())
        return 0
    lines = list(_ACTIONS[arguments.action](status, arguments))
    for line in lines:
        print(printable(line))
    if not lines:
        names = ", ".join(server.id for server in status.servers) or "nothing"
        print(f"rolemesh node: no such backend; this node runs {names}", file=sys.stderr)
    return 0 if lines else 1


def ask(path: Path) -> bytes:
    """All that the node behind a socket tells.

    :raises NoNode: when there is none, or it does not tell.
    """
    told = b""
    try:
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(PATIENCE)
            asking.connect(str(path))
            while piece := asking.recv(65536):
                told += piece
                if len(told) > LONGEST:
                    raise NoNode(f"{path} tells more than {LONGEST} bytes")
    except TimeoutError:
        raise NoNode(f"{path} does not answer within {PATIENCE:.0f} s") from None
    except OSError as error:
        why = error.strerror or str(error)
        raise NoNode(f"{path}: {why}; {_cure(path)}") from None
    return told


def _cure(path: Path) -> str:
    if len(os.fsencode(path)) > _LONGEST_PATH:
        return "give the agent a state folder with a shorter path"
    return "is the node running, with this --state?"


def _status(status: NodeStatus, _: argparse.Namespace) -> Iterator[str]:
    yield f"{status.node}: rolemesh {status.version}"
    if status.degraded:
        yield f"  degraded: {status.degraded}"
    yield from (f"  warning: {each}" for each in status.warnings)
    for gateway in status.gateways:
        yield from _gateway(gateway)
    for server in status.servers:
        yield from _server(server)
    for gpu in status.gpus:
        held = ", ".join(
            f"{each.name} {(each.memory or 0) / 1e9:.1f} GB" for each in gpu.processes or ()
        )
        yield f"  GPU {gpu.index} ({gpu.name}): {held or gpu.reason or 'free'}"


def _gateway(gateway: GatewayStanding) -> Iterator[str]:
    told = " (told of by another)" if gateway.learned else ""
    soon = f", told next in {gateway.next_in:.0f} s" if gateway.next_in is not None else ""
    yield f"  gateway {gateway.url}{told}: {gateway.standing} for {gateway.since:.0f} s{soon}"
    if gateway.trouble:
        yield f"    last trouble: {gateway.trouble}"


def _server(server: ServerStatus) -> Iterator[str]:
    pid = f", pid {server.pid} for {server.age:.0f} s" if server.pid else ""
    busy = f", {server.busy}/{server.slots} busy" if server.busy is not None else ""
    soon = f", next start in {server.retry_in:.0f} s" if server.retry_in is not None else ""
    yield f"  {server.id} ({server.model}): {server.state.value}{pid}{busy}{soon}"
    if server.draining is not None:
        yield f"    takes no new requests{f': {server.draining}' if server.draining else ''}"
    if server.last_exit:
        yield f"    last exit: {server.last_exit}, {server.restarts} restarts in all"
    if server.retry_in is not None:
        yield from (f"      {line}" for line in server.lines[-5:])


def _argv(status: NodeStatus, arguments: argparse.Namespace) -> Iterator[str]:
    for server in status.servers:
        if arguments.backend in (None, server.id):
            yield shlex.join(server.argv)


_ACTIONS = {"status": _status, "argv": _argv}
