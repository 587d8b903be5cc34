"""A chat completion out of its chunks."""

from typing import Any

from rolemesh.core.assemble.chunks import PIECE, Choice, Chunks, Texts


class Chat(Chunks):
    """`/v1/chat/completions`."""

    def new_choice(self) -> Choice:
        return _ChatChoice()

    def answer(self) -> dict[str, Any]:
        return {**super().answer(), "object": "chat.completion"}


class _ChatChoice(Choice):
    def __init__(self) -> None:
        super().__init__()
        self._texts = Texts()
        self._rest: dict[str, Any] = {}
        self._calls: dict[int, _ToolCall] = {}

    def take(self, choice: dict[str, Any]) -> int:
        kept = 0
        for name, value in choice.pop("delta").items():
            if isinstance(value, str) and name != "role":
                kept += self._texts.add(name, value)
            elif name == "tool_calls" and value is not None:
                kept += sum([self._take_call(call) for call in value])
            elif value is not None:
                self._rest[name] = value
        self.members.update(choice)
        return kept

    def _take_call(self, call: dict[str, Any]) -> int:
        index = call.pop("index")
        if index not in self._calls:
            self._calls[index] = _ToolCall()
        return self._calls[index].take(call)

    def answer(self) -> dict[str, Any]:
        message = {"content": "", **self._rest, **self._texts.joined()}
        if self._calls:
            message["tool_calls"] = [self._calls[at].answer() for at in sorted(self._calls)]
        logprobs = {"logprobs": self.logprobs} if self.logprobs else {}
        return {**self.members, "message": message, **logprobs}


class _ToolCall:
    def __init__(self) -> None:
        self._members: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments: list[str] = []

    def take(self, call: dict[str, Any]) -> int:
        function = call.pop("function", {})
        arguments: str = function.pop("arguments", None) or ""
        self._arguments.append(arguments)
        self._function.update(function)
        self._members.update(call)
        return PIECE + len(arguments)

    def answer(self) -> dict[str, Any]:
        function = {**self._function, "arguments": "".join(self._arguments)}
        return {**self._members, "function": function}
