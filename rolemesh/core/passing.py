"""Errors that a backend answered with: which try they end, and what of them a client may see."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from attrs import evolve, frozen

from rolemesh.core.attempts import Outcome

LONGEST_MESSAGE = 1024

_COUNTS = ("n_ctx", "n_prompt_tokens")
_TYPES = {400: "invalid_request_error", 404: "invalid_request_error", 501: "server_error"}
_ASKED_TOO_MUCH = re.compile(
    r"(image|audio|video) input is not supported"
    r"|input \(\d+ tokens\) is too large to process"
    r"|Failed to (parse (messages|tools)|load (image|audio))"
    r"|Unknown reasoning format"
    r"|'\w+' is required"
)
"""How llama-server begins what it says with a 500 of a request that it cannot answer."""
_PRIVATE = re.compile(
    r"""
    \b\w+://[^\s"'<>]+                             # an address of a server
    | (?:\b[A-Za-z]:)?(?:[\\/][\w.@~+-]+){2,}[\\/]?  # a path
    | (?<![\w.@~+-])[\w.@~+-]+\.gguf\b           # a model's file
    | \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b
    """,
    re.VERBOSE,
)
_BEGINS_WITH_ERROR = re.compile(rb'\s*\{\s*"error"\s*:')
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@frozen
class Passed:
    """A backend's own error, in our shape and without what is not the client's to see.

    `elsewhere`: a backend that was started otherwise may be able to answer.
    """

    status: int
    message: str
    type: str
    code: str
    details: dict[str, Any]
    elsewhere: bool = False

    def openai_body(self) -> bytes:
        error = {"message": self.message, "type": self.type, "param": None, "code": self.code}
        return msgspec.json.encode({"error": {**error, **self.details}})

    def anthropic_body(self, request_id: str) -> bytes:
        error = {"type": self.type, "message": self.message, "code": self.code, **self.details}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})


def among(passed: Passed, contexts: Iterable[int]) -> Passed:
    """A prompt that is too long, as the role sees it whose backends have these contexts: what the
    client is to come down to is the largest of them."""
    asked, told = passed.details.get("n_prompt_tokens", 0), passed.details.get("n_ctx", 0)
    most = max((each for each in contexts if each <= asked), default=0)
    if passed.code != "context_length_exceeded" or most <= told or not told:
        return passed
    counts = {**passed.details, "n_ctx": most}
    return evolve(passed, message=_too_long(counts), details=counts)


def judge(status: int, body: bytes) -> Outcome | Passed:
    """What an answer that is not a 2xx comes to: a failed try, or an error for the client."""
    if status == 503:
        return Outcome.LOADING if b"oading" in body else Outcome.BUSY
    if status == 429:
        return Outcome.BUSY
    if status in (401, 403):
        return Outcome.LOCKED_OUT
    if 400 <= status < 500 or status == 501:
        return _passed(status, body)
    if status == 500 and _asked_too_much(body):
        return evolve(_passed(400, body), type="invalid_request_error", elsewhere=True)
    return Outcome.FAULT if 500 <= status < 600 else Outcome.GARBLED


def judge_event(data: bytes) -> Outcome | Passed | None:
    """The same for a stream's first event; None when it is no error."""
    if not data.startswith(b"{") or b'"error"' not in data:
        return None
    error = _error_in(data)
    if error is None:
        return None
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 500
    return judge(status, data)


def judge_whole(body: bytes) -> Outcome | Passed | None:
    """The same for the body of a 200 that begins with an error, as some servers answer."""
    return judge_event(body.strip()) if _BEGINS_WITH_ERROR.match(body) else None


def _error_in(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    error = found.get("error") if isinstance(found, dict) else None
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else None


def _asked_too_much(body: bytes) -> bool:
    message = (_error_in(body) or {}).get("message")
    return isinstance(message, str) and _ASKED_TOO_MUCH.match(message) is not None


def _passed(status: int, body: bytes) -> Passed:
    error = _error_in(body) or {}
    kind = error.get("type")
    too_long = kind == "exceed_context_size_error"
    message = error.get("message")
    counts = {name: error[name] for name in _COUNTS if _count(error, name)}
    return Passed(
        status,
        _too_long(counts) or _message(message, status),
        "invalid_request_error" if too_long else _type_of(kind, status),
        "context_length_exceeded" if too_long else "bad_request",
        counts,
    )


def _message(message: object, status: int) -> str:
    return scrubbed(message) if isinstance(message, str) else f"The backend answered {status}."


def _too_long(counts: Mapping[str, int]) -> str:
    """The words by which agents know that they must make their conversation shorter."""
    if len(counts) < 2:
        return ""
    most, asked = counts["n_ctx"], counts["n_prompt_tokens"]
    return (
        f"prompt is too long: {asked} tokens > {most} maximum. This model's maximum context length"
        f" is {most} tokens; shorten the conversation, or ask a role with more context."
    )


def _count(error: dict[str, Any], name: str) -> bool:
    return type(error.get(name)) is int


def _type_of(kind: object, status: int) -> str:
    if isinstance(kind, str) and re.fullmatch(r"[a-z_]{1,40}", kind):
        return kind
    return _TYPES.get(status, "invalid_request_error")


def scrubbed(message: str) -> str:
    """A backend's words without control characters, paths and addresses, and not too many."""
    plain = _CONTROL.sub(" ", message[: 4 * LONGEST_MESSAGE])
    return _PRIVATE.sub("…", plain)[:LONGEST_MESSAGE]
