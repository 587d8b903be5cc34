"""Takes the pieces of a stream, and gives the whole answer or says why there is none."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from attrs import frozen

from rolemesh.core.assemble.begun import begun, repeat
from rolemesh.core.assemble.chat import Chat
from rolemesh.core.assemble.completions import Completions
from rolemesh.core.assemble.messages import Messages
from rolemesh.core.assemble.responses import Responses
from rolemesh.core.openai import Api
from rolemesh.core.sse import BrokenStream, Event, Splitter

LONGEST_ANSWER = 16 << 20  # bytes of memory, roughly, for what is kept of one answer

_OTHER_SHAPE = "an event is not of the API that was asked for"
_MISSHAPEN = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Assembly(Protocol):
    """What each API's part does; `take` says how many bytes it has kept of an event."""

    complete: bool

    def take(self, event: Event) -> int: ...

    def answer(self) -> dict[str, Any]: ...


_ASSEMBLIES: Mapping[Api, Callable[[], Assembly]] = {
    Api.CHAT: Chat,
    Api.COMPLETIONS: Completions,
    Api.RESPONSES: Responses,
    Api.MESSAGES: Messages,
}


@frozen
class Failure:
    """The error that a stream carried, as the server would have answered it without streaming."""

    status: int
    body: bytes


class Assembler:
    """One stream on its way to being one answer; `error` is set when the stream carries one.

    `facts` are those of the request.
    """

    def __init__(self, api: Api, facts: Mapping[str, Any]) -> None:
        self._splitter = Splitter()
        self._assembly = _ASSEMBLIES[api]()
        self._begun = begun(facts)
        self._kept = 0
        self.error: Failure | None = None

    def feed(self, piece: bytes) -> None:
        """Take the next piece of the stream; what follows an error event is left unread.

        :raises BrokenStream: it is not a stream of its API, or its answer is too long to keep.
        """
        for event in self._splitter.feed(piece):
            if self.error is None:
                self._take(event)
        if self._kept > LONGEST_ANSWER:
            raise BrokenStream(f"the answer is longer than {LONGEST_ANSWER} bytes")

    def finish(self) -> bytes:
        """The answer's body, once the stream has ended.

        :raises BrokenStream: the stream ended before its last event, or is not one of its API.
        """
        if self.error is not None or not self._assembly.complete:
            raise BrokenStream("the stream ended before its last event")
        try:
            answer = self._assembly.answer()
            if self._begun:
                repeat(self._begun, answer)
            return msgspec.json.encode(answer)
        except _MISSHAPEN:
            raise BrokenStream(_OTHER_SHAPE) from None

    def _take(self, event: Event) -> None:
        if b'"error"' in event.data[:64]:
            self.error = _failure(event.data)
        if self.error is not None:
            return
        try:
            self._kept += self._assembly.take(event)
        except _MISSHAPEN:
            raise BrokenStream(_OTHER_SHAPE) from None


def _failure(data: bytes) -> Failure | None:
    """The error that an event is, None when its text only speaks of one."""
    try:
        said = msgspec.json.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
    error = said.get("error") if isinstance(said, dict) else None
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    return Failure(code if isinstance(code, int) and 400 <= code < 600 else 500, data)
