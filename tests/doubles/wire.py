"""Bytes to requests and answers to bytes, raw, so that a double can break any rule of HTTP."""

from http import HTTPStatus
from typing import Any

import msgspec
from attrs import field, frozen

JSON = "application/json; charset=utf-8"
BASE_HEADERS = "Server: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
KEEP, CLOSE = "Keep-Alive: timeout=5, max=100\r\n", "Connection: close\r\n"
LAST_CHUNK = b"0\r\n\r\n"
DONE = b"[DONE]"
PING = b":\n\n"  # a comment, in a stream that has been silent for a while


@frozen
class Request:
    """One request as it arrived; header names in lower case, all of them, in order."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def wants_close(self) -> bool:
        return (self.header("connection") or "").lower() == "close"


class Reader:
    """Cuts what arrives on one connection into requests; lenient, as a double may be."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> Request | None:
        """The next whole request, or None while some of it is still to come."""
        head, gap, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not gap:
            return None
        request = _head(head)
        found = _body(request, rest)
        if found is None:
            return None
        body, taken = found
        del self._buffer[: len(head) + 4 + taken]
        return Request(request.method, request.path, request.headers, body)


def _head(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ", 2)
    pairs = (line.partition(":") for line in lines)
    return Request(
        method, path, tuple((name.lower(), value.strip()) for name, _, value in pairs), b""
    )


def _body(request: Request, rest: bytes) -> tuple[bytes, int] | None:
    if (request.header("transfer-encoding") or "").lower() == "chunked":
        return _dechunk(rest)
    length = int(request.header("content-length") or 0)
    return (rest[:length], length) if len(rest) >= length else None


def _dechunk(rest: bytes) -> tuple[bytes, int] | None:
    body, at = b"", 0
    while (end := rest.find(b"\r\n", at)) >= 0:
        size = int(rest[at:end].split(b";")[0], 16)
        if len(rest) < end + 2 + size + 2:
            return None
        if size == 0:
            return body, end + 4
        body += rest[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return None


def encode(message: object) -> bytes:
    """JSON without spaces, keys in the order given: llama-server's own form."""
    return message if isinstance(message, bytes) else msgspec.json.encode(message)


def head(status: int | str, headers: str) -> bytes:
    """A response head with llama-server's own first headers; `headers` ends each line with CRLF."""
    reason = HTTPStatus(status).phrase if isinstance(status, int) else ""
    return f"HTTP/1.1 {status} {reason}\r\n{BASE_HEADERS}{headers}\r\n".encode("latin-1")


def json_answer(
    status: int | str, message: object, connection: str = KEEP, more: str = ""
) -> bytes:
    """A whole JSON answer; every error of llama-server closes the connection."""
    body = encode(message)
    return (
        head(status, f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\n{more}{connection}")
        + body
    )


def stream_head(connection: str = KEEP, content_type: str = "text/event-stream") -> bytes:
    """The head of a streamed answer."""
    lines = (
        f"X-Accel-Buffering: no\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n"
    )
    return head(200, lines + connection)


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(data: bytes) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % data


def error(status: int, kind: str, message: str, **details: Any) -> dict[str, Any]:
    """llama-server's error body: `code` is an integer, unlike OpenAI's."""
    return {"error": {"code": status, "message": message, "type": kind, **details}}
