"""An Anthropic message out of its events."""

from typing import Any

import msgspec

from rolemesh.core.assemble.chunks import Texts
from rolemesh.core.sse import Event

_decode = msgspec.json.Decoder().decode


class Messages:
    """`/v1/messages`."""

    def __init__(self) -> None:
        self.complete = False
        self._message: dict[str, Any] = {}
        self._blocks: dict[int, _Block] = {}

    def take(self, event: Event) -> int:
        if event.name == b"content_block_delta":
            said = _decode(event.data)
            return self._blocks[said["index"]].take(said["delta"])
        if event.name == b"content_block_start":
            said = _decode(event.data)
            self._blocks[said["index"]] = _Block(said["content_block"])
            return len(event.data)
        if event.name == b"message_start":
            self._message = _decode(event.data)["message"]
        elif event.name == b"message_delta":
            self._close(_decode(event.data))
        elif event.name == b"message_stop":
            self.complete = True
        return 0

    def _close(self, said: dict[str, Any]) -> None:
        self._message.update(said["delta"])
        self._message["usage"].update(said.get("usage", {}))

    def answer(self) -> dict[str, Any]:
        blocks = [self._blocks[index].answer() for index in sorted(self._blocks)]
        return {**self._message, "content": blocks}


class _Block:
    def __init__(self, start: dict[str, Any]) -> None:
        self._members = start
        self._texts = Texts()

    def take(self, delta: dict[str, Any]) -> int:
        kept = 0
        for name, value in delta.items():
            if name == "type":
                continue
            if isinstance(value, str):
                kept += self._texts.add(name, value)
            else:
                self._members[name] = value
        return kept

    def answer(self) -> dict[str, Any]:
        texts = self._texts.joined()
        if self._members["type"] == "tool_use":
            texts, arguments = {}, texts.get("partial_json", "")
            return {**self._members, "input": _input(arguments)}
        begun = {name: (self._members.get(name) or "") + text for name, text in texts.items()}
        return {**self._members, **begun}


def _input(arguments: str) -> Any:
    """A tool's input; `{}` when it was cut, as llama-server says then."""
    try:
        return _decode(arguments)
    except msgspec.DecodeError:
        return {}
