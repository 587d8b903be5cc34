"""`rolemesh why [ID|--last]`: what one request waited for, in a person's words."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from rolemesh.cli.gateway_arguments import add_gateway_arguments
from rolemesh.cli.shown import shown

LAST = "last"


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("why", help="what a request waited for, and who answered it")
    command.add_argument("id", nargs="?", default=LAST, help="an x-request-id (default: the last)")
    command.add_argument("--last", dest="id", action="store_const", const=LAST)
    add_gateway_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show the story of a request; 0 when it is known, else 1."""
    path = f"/v1/requests/{quote(arguments.id, safe='')}"
    return 0 if shown(arguments, "why", path, story) else 1


def story(record: Mapping[str, Any]) -> Iterator[str]:
    """A request's record, line by line."""
    yield f"{record['id']}: {record['path']} for {record['role'] or 'no role'}: {record['end']}"
    if record["backend"]:
        model = f" ({record['model']})" if record["model"] else ""
        yield f"  answered by {record['node']}/{record['backend']}{model}: {record['route']}"
    for attempt in record["attempts"]:
        yield f"  tried {attempt['backend']}: {attempt['outcome']} after {_time(attempt['ms'])}"
    yield f"  queue:   {_time(record['queue_ms'])}"
    yield from _prefill(record)
    yield from _decode(record)
    if record["duration_ms"] is not None:
        yield f"  in all:  {_time(record['duration_ms'])}, {record['bytes']} bytes"


def _prefill(record: Mapping[str, Any]) -> Iterator[str]:
    usage = record["usage"]
    if usage["prompt"] is None:
        return
    cached = usage["cached"] or 0
    read = usage["prompt"] - cached
    line = f"  prefill: {read} of {usage['prompt']} tokens read, {cached} from the cache"
    if usage.get("prompt_ms"):
        line += f", in {_time(usage['prompt_ms'])}"
    believed = record["believed_cached"]
    if believed > 256 and cached * 4 < believed:
        line += f"; about {believed} were believed to be cached there, and were not"
    elif read > 256 and not believed:
        line += "; no backend was known to have this prompt cached"
    yield line


def _decode(record: Mapping[str, Any]) -> Iterator[str]:
    usage = record["usage"]
    made, took = usage["completion"], usage.get("predicted_ms")
    if not made:
        return
    if not took:
        yield f"  decode:  {made} tokens"
        return
    rate, normal = made / took * 1000, record["normal_rate"]
    compared = f", {rate / normal:.0%} of what is normal there" if normal else ""
    yield f"  decode:  {made} tokens in {_time(took)}: {rate:.1f} tokens/s{compared}"


def _time(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "not yet known"
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.0f} ms"
