"""`rolemesh nodes`: which machines there are, and what runs on them."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from rolemesh.cli.gateway_arguments import add_gateway_arguments
from rolemesh.cli.shown import shown
from rolemesh.cli.table import table

_COLUMNS = ("BACKEND", "MODEL", "STATE", "BUSY", "CONTEXT", "RESTARTS", "BUILD")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("nodes", help="which machines there are, and what runs there")
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show them; 0 when the gateway tells, else 1."""
    return 0 if shown(arguments, "nodes", "/v1/nodes", story) else 1


def story(told: Mapping[str, Any]) -> Iterator[str]:
    """Nodes and their backends, line by line."""
    nodes = told["data"]
    if not nodes:
        yield "no node is registered here"
        return
    rows = [_row(node, backend) for node in nodes for backend in node["backends"]]
    yield from table([_COLUMNS, *rows])
    for node in nodes:
        yield from (_gpu(node["node"], gpu) for gpu in node["gpus"])
        if not node["backends"]:
            yield f"{node['node']}: runs nothing yet"


def _row(node: Mapping[str, Any], backend: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"{node['node']}/{backend['id']}",
        backend["model"] or "-",
        "ready" if backend["ready"] else backend["state"],
        f"{backend['in_flight']}/{backend['slots'] or '?'}",
        str(backend["context"] or "?"),
        str(backend["restarts"]),
        backend["build"] or "-",
    )


def _gpu(node: str, gpu: Mapping[str, Any]) -> str:
    used, total = gpu.get("memory_used"), gpu.get("memory_total")
    memory = f"{used / 1e9:.1f} of {total / 1e9:.1f} GB" if used is not None and total else ""
    load = f"{gpu['utilization']:.0%} busy" if gpu.get("utilization") is not None else ""
    heat = f"{gpu['temperature']:.0f} °C" if gpu.get("temperature") is not None else ""
    power = f"{gpu['power']:.0f} W" if gpu.get("power") is not None else ""
    told = ", ".join(filter(None, (memory, load, heat, power, gpu.get("reason", ""))))
    return f"{node} GPU {gpu.get('index', '?')} ({gpu.get('name', '')}): {told or 'tells nothing'}"
