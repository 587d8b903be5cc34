"""What an answer cost and whether it was whole, read from its last bytes alone."""

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from attrs import field, frozen

from rolemesh.core.openai import Api
from rolemesh.core.sse import ends_with_done, last_name

KEPT = 16 * 1024  # bytes of a stream's end that are looked at
LONGEST_COUNTS = 4096  # bytes, of one `usage` or `timings` object

_OBJECT = re.compile(rb"\s*:\s*(?=\{)")
_MODEL = re.compile(rb'"model": ?"([^"\\]{1,256})"')
_LAST_EVENTS: Mapping[Api, frozenset[bytes]] = {
    Api.RESPONSES: frozenset((b"response.completed", b"response.failed", b"response.incomplete")),
    Api.MESSAGES: frozenset((b"message_stop",)),
}


class Timings(msgspec.Struct, frozen=True):
    """llama.cpp's own account of a request: tokens, and milliseconds."""

    cache_n: int = 0
    prompt_n: int = 0
    prompt_ms: float = 0.0
    predicted_n: int = 0
    predicted_ms: float = 0.0


@frozen
class Usage:
    """Tokens of one answer, None where it did not say; `prompt` counts the `cached` ones too.

    `model` is the name that the answer gives.
    """

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    timings: Timings | None = None
    model: str | None = None


@frozen
class Ending:
    """How a stream ended.

    `complete`: the last event of its API came. `finished`: as many choices as were asked for said
    why they ended, so that nothing is missing but, perhaps, that last event. `events` is how many
    it had, which is about a token each.
    """

    complete: bool = False
    finished: bool = False
    usage: Usage = field(factory=Usage)
    events: int = field(default=0, eq=False)

    def bill(self, prompt: int) -> Usage:
        """What counts against a quota: what the answer told; of one that broke off, or did not
        tell, what was seen of it, and about how many tokens its `prompt` has."""
        told = self.usage
        completion = told.completion
        if completion is None or not self.finished:
            completion = max(completion or 0, self.events)
        return Usage(prompt if told.prompt is None else told.prompt, completion, told.cached)


class TailTap:
    """Keeps the last bytes of a relayed stream, and reads them once, at its end.

    It also serves for a JSON answer that is relayed unread: its usage stands near the end.
    """

    __slots__ = ("_api", "_choices", "_events", "_head", "_name", "_tail")

    def __init__(self, api: Api, choices: int = 1) -> None:
        self._api = api
        self._choices = choices
        self._events = 0
        self._head = b""
        self._name: bytes | None = None
        self._tail = bytearray(b"\n")

    def feed(self, chunk: bytes) -> None:
        """Take note of what was relayed."""
        self._events += chunk.count(b"data:")
        self._tail += chunk
        if len(self._tail) > 2 * KEPT:
            self._trim()

    def _trim(self) -> None:
        if self._api in _LAST_EVENTS:
            self._head = self._head or bytes(self._tail[:LONGEST_COUNTS])
            self._name = last_name(self._tail) or self._name
        del self._tail[:-KEPT]

    def ending(self) -> Ending:
        """What the end of the stream says."""
        tail = bytes(self._tail)
        complete = self._complete(tail)
        finished = complete or self._reasons(tail) >= self._choices
        return Ending(complete, finished, self._usage(tail), self._events)

    def _reasons(self, tail: bytes) -> int:
        key = b'"stop_reason":' if self._api is Api.MESSAGES else b'"finish_reason":'
        some = tail.count(key + b'"') + tail.count(key + b' "')
        none = tail.count(key + b'""') + tail.count(key + b' ""')  # as some servers write null
        return some - none

    def _complete(self, tail: bytes) -> bool:
        last_events = _LAST_EVENTS.get(self._api)
        if last_events is None:
            return ends_with_done(tail)
        whole = tail.endswith((b"\n\n", b"\r\n\r\n", b"\r\r"))
        return whole and (last_name(tail) or self._name) in last_events

    def _usage(self, tail: bytes) -> Usage:
        usage = _last_object(b'"usage"', tail)
        if self._api is Api.MESSAGES:  # the prompt's tokens come first, the answer's last
            usage = {**_first_object(b'"usage"', self._head or tail), **usage}
        timings = _last_object(b'"timings"', tail) or None
        found = {"usage": usage, "timings": timings, "model": self._model(tail)}
        try:
            return _account(self._api, msgspec.convert(found, _Answer))
        except msgspec.ValidationError:
            return Usage()

    def _model(self, tail: bytes) -> str | None:
        named = _MODEL.findall(tail) if self._api in (Api.CHAT, Api.COMPLETIONS) else []
        return named[-1].decode("utf-8", "replace") if named else None


def usage_of_json(api: Api, body: bytes) -> Usage | None:
    """What a whole, non-streaming answer says of its cost; None when it has been cut short."""
    try:
        return _account(api, _answer.decode(body))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return None if "truncated" in str(error) else Usage()


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    def prompt(self, api: Api) -> int | None:
        if self.input_tokens is None or not api.anthropic:
            return self.input_tokens if self.prompt_tokens is None else self.prompt_tokens
        beside = (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        return self.input_tokens + beside

    def completion(self) -> int | None:
        return self.output_tokens if self.completion_tokens is None else self.completion_tokens

    def cached(self) -> int | None:
        details = self.prompt_tokens_details or self.input_tokens_details
        return details.cached_tokens if details else self.cache_read_input_tokens


class _Answer(msgspec.Struct):
    usage: _Counts | None = None
    timings: Timings | None = None
    model: str | None = None


_answer = msgspec.json.Decoder(_Answer)
_json = json.JSONDecoder()


def _account(api: Api, answer: _Answer) -> Usage:
    counts, timings = answer.usage or _Counts(), answer.timings
    prompt, completion, cached = counts.prompt(api), counts.completion(), counts.cached()
    if timings is not None:
        prompt = timings.cache_n + timings.prompt_n if prompt is None else prompt
        completion = timings.predicted_n if completion is None else completion
        cached = timings.cache_n if cached is None else cached
    return Usage(prompt, completion, cached, timings, answer.model)


def _first_object(key: bytes, text: bytes) -> dict[str, Any]:
    at = text.find(key)
    return (_object_after(at + len(key), text) if at >= 0 else None) or {}


def _last_object(key: bytes, text: bytes) -> dict[str, Any]:
    """The last object that is a member by this name; in a text, its quotes would be escaped."""
    at = len(text)
    while (at := text.rfind(key, 0, at)) >= 0:
        found = _object_after(at + len(key), text)
        if found is not None:
            return found
    return {}


def _object_after(end: int, text: bytes) -> dict[str, Any] | None:
    value = _OBJECT.match(text, end)
    if value is None:
        return None
    cut = text[value.end() : value.end() + LONGEST_COUNTS]
    try:
        found, _ = _json.raw_decode(cut.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
