"""A response out of its events: the last one holds it whole."""

from typing import Any

import msgspec

from rolemesh.core.sse import Event

_LAST = (b"response.completed", b"response.failed", b"response.incomplete")


class Responses:
    """`/v1/responses`; the events before the last one are not even decoded."""

    def __init__(self) -> None:
        self.complete = False
        self._response: dict[str, Any] = {}

    def take(self, event: Event) -> int:
        if event.name not in _LAST:
            return 0
        self._response = msgspec.json.decode(event.data)["response"]
        self.complete = True
        return len(event.data)

    def answer(self) -> dict[str, Any]:
        """The response, with what llama-server says only in a whole answer."""
        response = self._response
        if response.get("status") == "completed":
            response.setdefault("completed_at", response.get("created_at"))
        for item in response.get("output", ()):
            item.setdefault("status", "completed")
        return response
