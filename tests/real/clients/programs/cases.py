"""What the programs share: every case is tried, and all that came is one JSON object."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

HELLO = "hello world"
COLOR = {
    "type": "object",
    "properties": {"color": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["color"],
}
UNKNOWN = "codr"


def asked() -> tuple[str, str]:
    """The server's URL and the role, from the command line."""
    url, role = sys.argv[1:]
    return url, role


def tell(cases: Mapping[str, Callable[[], Any]]) -> None:
    """Print what each case returned, or what it raised."""
    print(json.dumps({name: _outcome(case) for name, case in cases.items()}, default=str))


def _outcome(case: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": case()}
    except Exception as problem:
        told = {name: getattr(problem, name, None) for name in ("status_code", "request_id")}
        return {"error": {"type": type(problem).__name__, "text": str(problem), **told}}
