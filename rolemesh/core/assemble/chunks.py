"""What chat and completions share: chunks of choices, each choice coming in pieces."""

from abc import ABC, abstractmethod
from collections import defaultdict
from typing import Any

import msgspec

from rolemesh.core.sse import Event

PIECE = 64  # bytes that a piece of text costs beside its characters
_LOGPROBS_FACTOR = 4  # bytes kept for each byte of logprobs, decoded

_decode = msgspec.json.Decoder().decode


class Texts:
    """Strings by name, each coming in pieces."""

    __slots__ = ("_pieces",)

    def __init__(self) -> None:
        self._pieces: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, name: str, piece: str) -> int:
        self._pieces[name].append(piece)
        return PIECE + len(piece)

    def joined(self) -> dict[str, str]:
        return {name: "".join(pieces) for name, pieces in self._pieces.items()}


class Choice(ABC):
    """One of the answers asked for; members unknown to us are kept as they last came."""

    def __init__(self) -> None:
        self.members: dict[str, Any] = {}
        self.logprobs: dict[str, Any] = {}

    @abstractmethod
    def take(self, choice: dict[str, Any]) -> int:
        """Add a piece of this choice; the bytes that this keeps."""

    @abstractmethod
    def answer(self) -> dict[str, Any]: ...

    def take_logprobs(self, found: dict[str, Any]) -> None:
        for name, value in found.items():
            if isinstance(value, list):
                self.logprobs.setdefault(name, []).extend(value)
            else:
                self.logprobs[name] = value


class Chunks(ABC):
    """Chunks put together; usage and timings are the first choice's, as in a whole answer."""

    def __init__(self) -> None:
        self.complete = False
        self._members: dict[str, Any] = {}
        self._choices: dict[int, Choice] = {}
        self._finished = 0  # the choice that ended last: usage comes with its end, or right after

    @abstractmethod
    def new_choice(self) -> Choice: ...

    def take(self, event: Event) -> int:
        if event.data == b"[DONE]":
            self.complete = True
            return 0
        chunk = _decode(event.data)
        if chunk is None:  # llama-server begins so when several prompts are asked at once
            return 0
        kept = sum([self._take_choice(choice, event) for choice in chunk.pop("choices")])
        if self._finished and "usage" in chunk:
            del chunk["usage"]
            chunk.pop("timings", None)
        self._members.update(chunk)
        return kept

    def _take_choice(self, choice: dict[str, Any], event: Event) -> int:
        index = choice["index"]
        if index not in self._choices:
            self._choices[index] = self.new_choice()
        if choice["finish_reason"] is not None:
            self._finished = index
        logprobs = choice.pop("logprobs", None)
        kept = self._choices[index].take(choice)
        if logprobs is None:
            return kept
        self._choices[index].take_logprobs(logprobs)
        return kept + _LOGPROBS_FACTOR * len(event.data)

    def answer(self) -> dict[str, Any]:
        choices = [self._choices[index].answer() for index in sorted(self._choices)]
        return {"choices": choices, **self._members}
