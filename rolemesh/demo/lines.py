"""What a person is shown of the programs' JSON log lines."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

_LOUD = ("warn", "error", "critical")
_SERVERS_OWN = "rolemesh.node.logs"  # what llama-servers write themselves


def read(line: bytes) -> Mapping[str, Any]:
    """One log line; a line that is not JSON is a loud message."""
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if isinstance(event, dict):
        return event
    return {"message": line.decode(errors="replace").strip(), "log.level": "error"}


def request_line(event: Mapping[str, Any]) -> str | None:
    """One served or refused request in one line; None when the event is something else."""
    status = event.get("http.response.status_code")
    role = event.get("rolemesh.role")
    if status is None or (role is None and status < 400):
        return None
    place = "/".join(str(event[key]) for key in _PLACE if event.get(key))
    parts = [_clock(event), f"{role or event.get('url.path', '?')}", f"-> {place or 'nobody'}"]
    return "  ".join([*parts, str(status), ", ".join(_figures(event))]).rstrip()


_PLACE = ("rolemesh.node", "rolemesh.backend")


def _clock(event: Mapping[str, Any]) -> str:
    try:
        return datetime.fromisoformat(event["@timestamp"]).astimezone().strftime("%H:%M:%S")
    except (KeyError, TypeError, ValueError):
        return "--:--:--"


def _figures(event: Mapping[str, Any]) -> list[str]:
    figures = []
    if (first := event.get("rolemesh.ttfb_ms")) is not None:
        figures.append(f"first byte {first:.0f} ms")
    if (whole := event.get("event.duration")) is not None:
        figures.append(f"done {whole / 1e6:.0f} ms")
    if (tokens := event.get("gen_ai.usage.output_tokens")) is not None:
        figures.append(f"{tokens} tokens")
    if error := event.get("error.code"):
        figures.append(str(error))
    return figures


class Narrator:
    """Tells what the programs log: all of ours until `quiet` is set, then requests and trouble."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.quiet = False
        self._say = say

    def __call__(self, name: str, line: bytes) -> None:
        event = read(line)
        if (request := request_line(event)) is not None:
            self._say(request)
        elif event.get("message") and self._is_worth(event):
            self._say(f"{name:>9}: {event['message']}")

    def _is_worth(self, event: Mapping[str, Any]) -> bool:
        if event.get("log.level") in _LOUD:
            return True
        source = str(event.get("log.logger", ""))
        return (
            not self.quiet
            and source.startswith("rolemesh.")
            and not source.startswith(_SERVERS_OWN)
        )
