"""How a broken chat stream goes on at another backend of the same model.

llama-server continues a last message of the assistant's where it ends: at temperature 0 the rest
is what the first server would have said. It streams the continuation only, and counts what was
said before as prompt.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import frozen

from rolemesh.core.openai import Api
from rolemesh.core.sse import BrokenStream, Event, Splitter, WholeEvents

LONGEST_TEXT = 1 << 20  # characters of delivered text; what is longer is not rescued
LIMITS = ("max_tokens", "max_completion_tokens", "n_predict")
_SHAPED_BY = ("grammar", "json_schema", "logprobs", "n_probs", "continue_final_message")

_MISSHAPEN = (ValueError, TypeError, LookupError, AttributeError, RecursionError)

_decode = msgspec.json.Decoder().decode


def eligible(api: Api, facts: Mapping[str, Any]) -> bool:
    """Whether a request is a plain streamed chat, whose answer another backend could go on with."""
    return (
        api is Api.CHAT
        and facts.get("stream") is True
        and facts.get("n") in (None, 1)
        and facts.get("tool_choice") in (None, "auto", "none")
        and facts.get("add_generation_prompt") is not False
        and not any(facts.get(name) for name in _SHAPED_BY)
        and _free_text(facts.get("response_format"))
        and _can_be_added_to(facts.get("messages"))
    )


def _free_text(response_format: Any) -> bool:
    return response_format in (None, {}, {"type": "text"})


def _can_be_added_to(messages: Any) -> bool:
    if not (isinstance(messages, list) and messages and isinstance(messages[-1], dict)):
        return False
    last = messages[-1]
    if last.get("role") != "assistant":
        return True
    return isinstance(last.get("content"), str) and not last.get("tool_calls")


class Rescue:
    """What a client has been given of one stream, kept for as long as another could go on."""

    def __init__(self) -> None:
        self._splitter = Splitter()
        self._whole = WholeEvents()
        self._plain = True
        self._head: dict[str, Any] = {}
        self._pieces: list[str] = []
        self._length = 0

    @property
    def possible(self) -> bool:
        """Whether the answer has begun, has not ended, and was nothing but text so far."""
        return self._plain and bool(self._head)

    @property
    def spent(self) -> int:
        """Tokens delivered; llama-server sends each in an event, save those within a character."""
        return len(self._pieces)

    def feed(self, piece: bytes) -> bytes:
        """Take a piece of the stream; what to pass on of it and of the pieces before.

        A piece of an event is held back: behind half an event no stream could go on.

        :raises BrokenStream: as of any stream.
        """
        if self._plain:
            try:
                for event in self._splitter.feed(piece):
                    self._take(event)
            except _MISSHAPEN:
                self._plain = False
        return self._whole(piece)

    def _take(self, event: Event) -> None:
        if event.data == b"[DONE]":
            self._plain = False
            return
        chunk = _decode(event.data)
        self._head = self._head or {name: chunk[name] for name in ("id", "created", "model")}
        for choice in chunk["choices"]:
            self._plain = self._plain and choice["finish_reason"] is None
            self._take_delta(choice["delta"])

    def _take_delta(self, delta: dict[str, Any]) -> None:
        if any(value for name, value in delta.items() if name not in ("role", "content")):
            self._plain = False
        if delta.get("content"):
            self._pieces.append(delta["content"])
            self._length += len(delta["content"])
            self._plain = self._plain and self._length <= LONGEST_TEXT

    def continuation(self, members: Mapping[str, msgspec.Raw]) -> "Continuation":
        """How to ask another backend for the rest; `members` are those that the first one got."""
        limits = {name: _decode(members[name]) for name in LIMITS if name in members}
        limits = {name: limit for name, limit in limits.items() if _is_limit(limit)}
        sated = any(self.spent >= limit for limit in limits.values())
        splice = Splice(self._head, self.spent, sated)
        if not self._pieces:  # an empty message would not be gone on with, but answered
            return Continuation(dict(members), splice)
        changed: dict[str, Any] = {
            name: max(1, limit - self.spent) for name, limit in limits.items()
        }
        changed["messages"] = self._with_text(_decode(members["messages"]))
        raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in changed.items()}
        return Continuation({**members, **raw}, splice)

    def _with_text(self, messages: list[Any]) -> list[Any]:
        text = "".join(self._pieces)
        last = messages[-1]
        if last.get("role") == "assistant":
            return [*messages[:-1], {**last, "content": last["content"] + text}]
        return [*messages, {"role": "assistant", "content": text}]


def _is_limit(value: Any) -> bool:
    return isinstance(value, int) and value > 0


class Splice:
    """Rewrites a continuation's chunks: one answer with one id, one role and one account.

    `sated` leaves out the text: all that was asked for is there, only the end of it is missing,
    and the server makes at least one token.
    """

    def __init__(self, head: Mapping[str, Any], spent: int, sated: bool) -> None:
        self._splitter = Splitter()
        self._head = head
        self._spent = spent
        self._sated = sated

    def feed(self, piece: bytes) -> bytes:
        """What goes to the client for a piece of the second stream.

        :raises BrokenStream: it is not a chat's stream.
        """
        try:
            return b"".join([self._rewritten(event) for event in self._splitter.feed(piece)])
        except _MISSHAPEN:
            raise BrokenStream("an event is not a chat's") from None

    def _rewritten(self, event: Event) -> bytes:
        if event.data == b"[DONE]":
            return b"data: [DONE]\n\n"
        chunk = _decode(event.data)
        if "choices" in chunk:
            if chunk["choices"] and not self._says_something(chunk["choices"][0]):
                return b""
            chunk.update(self._head)
            if chunk.get("usage"):
                self._count(chunk["usage"])
        return b"data: " + msgspec.json.encode(chunk) + b"\n\n"

    def _says_something(self, choice: dict[str, Any]) -> bool:
        delta = choice["delta"]
        delta.pop("role", None)
        if self._sated or delta.get("content") is None:
            delta.pop("content", None)
        return bool(delta) or choice["finish_reason"] is not None

    def _count(self, usage: dict[str, Any]) -> None:
        """Count as completion what the second server had to read as prompt."""
        made = 0 if self._sated else usage["completion_tokens"]
        usage["prompt_tokens"] = max(0, usage["prompt_tokens"] - self._spent)
        usage["completion_tokens"] = self._spent + made
        usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]


@frozen
class Continuation:
    """The request for the rest of an answer, and what makes its stream the rest of the first."""

    members: Mapping[str, msgspec.Raw]
    splice: Splice
