"""From bytes to a request's head and body: so strict that no proxy in front reads them otherwise.

What is accepted here is a subset of what HAProxy, nginx and h11 accept. Each doubt is a Refusal.
"""

import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

from attrs import frozen
from twisted.web.http_headers import Headers

from rolemesh.core.errors import Refusal

_REQUEST_LINE = re.compile(
    rb"(?P<method>[A-Z]{1,32}) "
    rb"(?:https?://(?P<authority>[^/?#]+))?(?P<target>/[\x21\x22\x24-\x7e]*) "
    rb"(?P<version>HTTP/1\.[01])"
)
_FIELD = re.compile(
    rb"^([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n",
    re.MULTILINE,
)
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_LENGTH = re.compile(rb"[0-9]{1,18}")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x7e]*)?")
_CHUNK_LINE = 256


@frozen
class Head:
    """A request up to its body. `length` is the body's in bytes, None when it comes in chunks."""

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    length: int | None

    @property
    def path(self) -> bytes:
        return self.target.partition(b"?")[0]

    def persists(self) -> bool:
        """Whether the client may send another request on the same connection."""
        if self.version != b"HTTP/1.1":
            return False
        connection = self.headers.getRawHeaders(b"connection")
        return connection is None or b"close" not in b",".join(connection).lower()

    def awaits_continue(self) -> bool:
        """Whether the client holds its body back until it is told to go on."""
        expect = self.headers.getRawHeaders(b"expect")
        return (
            expect is not None
            and expect[0].lower() == b"100-continue"
            and self.version == b"HTTP/1.1"
        )


def read_head(raw: bytes, most_fields: int) -> Head:
    """The head that `raw` holds, without the empty line that ends it.

    Fields whose name has an underscore are left out, as nginx does: behind CGI-like mappings they
    pass for another field, and clients do send some, so that refusing them would break those.

    :raises Refusal: with `bad_request` or `headers_too_large`.
    """
    line, _, fields = raw.partition(b"\r\n")
    request = _REQUEST_LINE.fullmatch(line)
    if request is None:
        raise not_http()
    authority, target, version = request["authority"], request["target"], request["version"]
    headers = _read_fields(fields + b"\r\n" if fields else b"", most_fields)
    _check_host(headers, version, authority)
    _check_path(target)
    return Head(request["method"], target, version, headers, _read_length(headers, version))


def not_http() -> Refusal:
    """The refusal of what does not begin as HTTP/1 does, such as a TLS or HTTP/2 greeting."""
    return Refusal("bad_request", "the request does not begin with 'METHOD /path HTTP/1.1'")


def may_begin(data: bytes) -> bool:
    """Whether a request can begin with these bytes, of which there is at least one."""
    return b"A" <= data[:1] <= b"Z"


def _read_fields(block: bytes, most: int) -> Headers:
    lines = block.count(b"\r\n")
    if lines > most:
        raise Refusal(
            "headers_too_large", f"the request has {lines} header fields of at most {most}"
        )
    fields = _FIELD.findall(block)
    if not len(fields) == lines == block.count(b"\n"):
        raise Refusal("bad_request", f"header field {_first_bad(block)} is not 'Name: value'")
    headers = Headers()
    for name, value in fields:
        if b"_" not in name:
            headers.addRawHeader(name, value.strip(b" \t"))
    return headers


def _first_bad(block: bytes) -> int:
    lines = block.split(b"\r\n")
    return next(n for n, line in enumerate(lines, 1) if not _FIELD.fullmatch(line + b"\r\n"))


def _check_host(headers: Headers, version: bytes, authority: bytes | None) -> None:
    hosts = headers.getRawHeaders(b"host", ())
    if not hosts and version == b"HTTP/1.0" and authority is None:
        return
    if len(hosts) != 1 or not _HOST.fullmatch(hosts[0]):
        raise Refusal("bad_request", "the request needs exactly one Host field, name and port")
    if authority is not None and authority.lower() != hosts[0].lower():
        raise Refusal("bad_request", "the Host field is another than the request's target names")


def _check_path(target: bytes) -> None:
    path = target.partition(b"?")[0]
    if b"%" not in path:
        return
    try:
        text = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise Refusal("bad_request", "the path is not UTF-8 once its %-escapes are read") from None
    if "\0" in text:
        raise Refusal("bad_request", "the path holds an escaped NUL")


def _read_length(headers: Headers, version: bytes) -> int | None:
    codings = headers.getRawHeaders(b"transfer-encoding")
    lengths = headers.getRawHeaders(b"content-length")
    if codings is None:
        return 0 if lengths is None else _declared(lengths)
    if lengths is not None:
        raise Refusal("bad_request", "Transfer-Encoding and Content-Length exclude each other")
    if version != b"HTTP/1.1" or len(codings) != 1 or codings[0].lower() != b"chunked":
        raise Refusal("bad_request", "the only Transfer-Encoding is one 'chunked', on HTTP/1.1")
    return None


def _declared(lengths: Sequence[bytes]) -> int:
    if len(lengths) != 1 or not _LENGTH.fullmatch(lengths[0]):
        raise Refusal("bad_request", "Content-Length must be given once, in at most 18 digits")
    return int(lengths[0])


class SizedBody:
    """A body of a declared length; each part of it is handed to `keep`."""

    def __init__(self, length: int, keep: Callable[[bytes], object]) -> None:
        self._left = length
        self._keep = keep

    def feed(self, data: bytes) -> bytes | None:
        """Take what belongs to the body; returns what follows it, or None while more is due."""
        part = data[: self._left]
        self._keep(part)
        self._left -= len(part)
        return None if self._left else data[len(part) :]


class ChunkedBody:
    """A body in chunks, of at most `most` bytes; each part of it is handed to `keep`.

    Extensions are read over; trailer fields are refused.
    """

    def __init__(self, most: int, keep: Callable[[bytes], object]) -> None:
        self._room = most
        self._most = most
        self._keep = keep
        self._buffer = bytearray()
        self._left = 0
        self._step: Callable[[], bool] | None = self._read_size

    def feed(self, data: bytes) -> bytes | None:
        """Take what belongs to the body; returns what follows it, or None while more is due.

        :raises Refusal: `request_too_large` at the chunk that would pass the limit, before any
            of it is kept; `bad_request` for anything that is not chunks.
        """
        self._buffer += data
        while self._step is not None:
            if not self._step():
                return None
        return bytes(self._buffer)

    def _read_size(self) -> bool:
        end = self._buffer.find(b"\r\n", 0, _CHUNK_LINE)
        if end < 0 and len(self._buffer) < _CHUNK_LINE:
            return False
        line = _CHUNK.fullmatch(self._buffer, 0, max(end, 0))
        if line is None:
            raise Refusal("bad_request", "the body has a chunk without a proper size")
        self._expect(int(line[1], 16))
        del self._buffer[: end + 2]
        return True

    def _expect(self, size: int) -> None:
        if size > self._room:
            raise too_large(self._most)
        self._room -= size
        self._left = size
        self._step = self._read_data if size else self._read_last_line

    def _read_data(self) -> bool:
        part = bytes(self._buffer[: self._left])
        del self._buffer[: self._left]
        self._left -= len(part)
        self._keep(part)
        if not self._left:
            self._step = self._read_chunk_end
        return not self._left

    def _read_chunk_end(self) -> bool:
        return self._read_line_end("a chunk is longer than its size", self._read_size)

    def _read_last_line(self) -> bool:
        return self._read_line_end("trailer fields after the body are not taken", None)

    def _read_line_end(self, otherwise: str, then: Callable[[], bool] | None) -> bool:
        if not b"\r\n".startswith(self._buffer[:2]):
            raise Refusal("bad_request", otherwise)
        if len(self._buffer) < 2:
            return False
        del self._buffer[:2]
        self._step = then
        return True


def too_large(most: int) -> Refusal:
    """The refusal of a body of more than `most` bytes."""
    return Refusal("request_too_large", f"the body is larger than the {most} bytes taken here")
