"""A backend's body in chunks: read as strictly as Twisted reads it, and in fewer steps."""

import re
from collections.abc import Callable

from twisted.web.http import _DataLoss, _MalformedChunkedDataError

from rolemesh.gateway.lane import Place

LONGEST_LINE = 1024  # bytes of a size with its extensions
LONGEST_TRAILER = 64 * 1024

_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:;[\t\x20-\x5b\x5d-\x7e\x80-\xff]*)?")


class Chunks:
    """Stands where Twisted's parser of answers has its own decoder.

    What one read brings is given to `deliver` in one piece. Extensions and trailer fields are read
    over. `between` says that the next byte begins a chunk; `place` is where the body is read.
    """

    place: Place | None = None

    def __init__(self, deliver: Callable[[bytes], None], finish: Callable[[bytes], None]) -> None:
        self.deliver = deliver
        self.between = True
        self._finish = finish
        self._rest = b""
        self._left = 0
        self._trailer = 0
        self._step: Callable[[bytes, int, list[bytes]], int | None] | None = self._read_size

    def dataReceived(self, data: bytes) -> None:
        """Take what was read.

        :raises _MalformedChunkedDataError: it is not chunks; what came before that is delivered.
        """
        data = self._rest + data
        at, found = 0, list[bytes]()
        try:
            while self._step is not None:
                next_at = self._step(data, at, found)
                if next_at is None:
                    break
                at = next_at
        finally:
            self._rest = data[at:]
            self.between = not self._rest and self._step == self._read_size
            if found:
                self.deliver(b"".join(found))
        if self._step is None:
            self._finish(self._rest)

    def noMoreData(self) -> None:
        """The connection is closed.

        :raises _DataLoss: the last chunk had not come.
        """
        if self._step is not None:
            raise _DataLoss("the connection was closed before the last chunk")

    # Each step returns where the next one begins, None when more must come first.

    def _read_size(self, data: bytes, at: int, found: list[bytes]) -> int | None:
        end = data.find(b"\r\n", at, at + LONGEST_LINE)
        if end < 0 and len(data) < at + LONGEST_LINE:
            return None
        line = _SIZE.fullmatch(data, at, max(at, end))
        if line is None:
            raise _MalformedChunkedDataError("a chunk has no proper size")
        begin, size = end + 2, int(line[1], 16)
        if size and data.startswith(b"\r\n", begin + size):  # all of it is there
            found.append(data[begin : begin + size])
            return begin + size + 2
        self._left = size
        self._step = self._read_data if size else self._read_trailer
        return begin

    def _read_data(self, data: bytes, at: int, found: list[bytes]) -> int | None:
        part = data[at : at + self._left]
        if not part:
            return None
        found.append(part)
        self._left -= len(part)
        if not self._left:
            self._step = self._read_end
        return at + len(part)

    def _read_end(self, data: bytes, at: int, _: list[bytes]) -> int | None:
        if not b"\r\n".startswith(data[at : at + 2]):
            raise _MalformedChunkedDataError("a chunk is longer than its size")
        if len(data) < at + 2:
            return None
        self._step = self._read_size
        return at + 2

    def _read_trailer(self, data: bytes, at: int, _: list[bytes]) -> int | None:
        end = data.find(b"\r\n", at)
        size = (end if end >= 0 else len(data)) - at
        if self._trailer + size > LONGEST_TRAILER:
            raise _MalformedChunkedDataError("the fields after the body are too long")
        if end < 0:
            return None
        self._trailer += size
        if not size:
            self._step = None
        return end + 2
