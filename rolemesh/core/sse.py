"""Server-sent events: cut out of bytes, found in bytes, and the few that we write ourselves."""

import re
from typing import Any

import msgspec

from rolemesh.core.errors import Refusal
from rolemesh.core.openai import Api

LONGEST_EVENT = 1 << 20  # bytes of one line, and of one event's data
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_EVENT_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_NO_JSON = re.compile(rb"(?:\A|\n\n|\r\n\r\n)data:(?! *[\[{n])")
_FIRST_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|[\r\n])data: ?([^\r\n]*)[\r\n]")
_DONE_LINES = (b"\ndata: [DONE]", b"\rdata: [DONE]", b"\ndata:[DONE]", b"\rdata:[DONE]")


class BrokenStream(ValueError):
    """What came is no event stream of the kind that was asked for; the text never quotes it."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event; `name` is empty where the stream gave none."""

    name: bytes
    data: bytes


class Splitter:
    """Cuts a stream into events, in whatever pieces it comes; only names and data are kept.

    No line, and no event's data, may have more than `longest` bytes.
    """

    def __init__(self, longest: int = LONGEST_EVENT) -> None:
        self._longest = longest
        self._head: bytes | None = b""  # until it is known whether a byte order mark stands there
        self._after_cr = False
        self._line = bytearray()
        self._name = b""
        self._data: list[bytes] = []
        self._held = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that `piece` completes.

        :raises BrokenStream: a line, or one event's data, is too long.
        """
        if self._head is not None:
            piece = self._without_mark(piece)
        if not piece:
            return []
        lines = self._with_line_feeds(piece).split(b"\n")
        if self._line and len(lines) > 1:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        self._line += lines.pop()
        events = self._dispatch(lines)
        if len(self._line) + self._held > self._longest:
            raise BrokenStream(f"an event is longer than {self._longest} bytes")
        return events

    def _without_mark(self, piece: bytes) -> bytes:
        head = (self._head or b"") + piece
        if len(head) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(BYTE_ORDER_MARK)

    def _with_line_feeds(self, piece: bytes) -> bytes:
        if self._after_cr:
            piece = piece.removeprefix(b"\n")
        self._after_cr = piece.endswith(b"\r")
        if b"\r" not in piece:
            return piece
        return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _dispatch(self, lines: list[bytes]) -> list[Event]:
        events = []
        for line in lines:
            if line:
                self._field(line)
            else:
                if self._data:
                    events.append(Event(self._name, b"\n".join(self._data)))
                self._name, self._data, self._held = b"", [], 0
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._held += len(value)
        elif name == b"event":
            self._name = value.removeprefix(b" ")


class WholeEvents:
    """Holds the piece of an event back until its rest is there.

    Behind half an event, no client could read the one that says why nothing follows.
    """

    def __init__(self) -> None:
        self._held = b""

    @property
    def between(self) -> bool:
        """Whether nothing is held back."""
        return not self._held

    def __call__(self, piece: bytes) -> bytes:
        """The whole events up to here.

        :raises BrokenStream: an event is longer than LONGEST_EVENT, or no JSON.
        """
        if not self._held and piece.endswith(b"\n\n"):
            return _checked(piece)
        held = self._held + piece
        end = max(held.rfind(mark) + len(mark) if mark in held else 0 for mark in _EVENT_ENDS)
        self._held = held[end:]
        if len(self._held) > LONGEST_EVENT:
            raise BrokenStream(f"an event is longer than {LONGEST_EVENT} bytes")
        return _checked(held[:end])


def _checked(events: bytes) -> bytes:
    """The same; a glance at each event's first byte is all that nobody's need of them allows."""
    if events.startswith(b"data: {") and events.find(b"\n\n") == len(events) - 2:
        return events  # one event and no more, as nearly always
    if _NO_JSON.search(events) is not None:
        raise BrokenStream("an event is no JSON")
    return events


def first_data(head: bytes | bytearray) -> bytes | None:
    """The value of the first completed `data:` line of a stream that begins with `head`, if any.

    Until there is one, nothing of an answer has been given and another backend may give it.
    """
    found = _FIRST_DATA.search(head)
    return bytes(found[1]) if found else None


def ends_with_done(tail: bytes) -> bool:
    """Whether the last line is `data: [DONE]`; a line's end must stand before it in `tail`."""
    return tail.rstrip().endswith(_DONE_LINES)


def last_name(tail: bytes | bytearray) -> bytes | None:
    """The value of the last completed `event:` line after a line's end in `tail`, if any."""
    end = max(tail.rfind(b"\n"), tail.rfind(b"\r"))
    at = max(tail.rfind(b"\nevent:", 0, end), tail.rfind(b"\revent:", 0, end))
    if at < 0:
        return None
    line = bytes(tail[at + 1 : at + 257])
    return line.splitlines()[0].removeprefix(b"event:").removeprefix(b" ")


def event(data: bytes) -> bytes:
    """An event without a name, whose data is one line."""
    return b"data: " + data + b"\n\n"


def comment(text: str) -> bytes:
    """A comment, which clients skip."""
    return b": " + " ".join(text.split()).encode() + b"\n\n"


def error_event(api: Api, refusal: Refusal, request_id: str) -> bytes:
    """The event that says in a stream already begun why it goes no further.

    It starts with an empty line, which ends an event that was cut in the middle.
    """
    if api.anthropic:
        return b"\n\nevent: error\ndata: " + refusal.anthropic_body(request_id) + b"\n\n"
    if api is Api.RESPONSES:
        return b"\n\nevent: error\ndata: " + _responses_error(refusal) + b"\n\n"
    return b"\n\ndata: " + refusal.openai_body() + b"\n\n"


def _responses_error(refusal: Refusal) -> bytes:
    error: dict[str, Any] = msgspec.json.decode(refusal.openai_body())["error"]
    event = {"type": "error", "sequence_number": 0, **error, "error": error}
    return msgspec.json.encode({**event, "type": "error"})
