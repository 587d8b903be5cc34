"""Events sent at once: with `lane.py` the one place that reaches below Twisted's surface.

Twisted sends what is written in the next turn of the reactor, which for each event of a stream
costs two changes of what is polled for and a turn more. When nothing waits in a TCP transport's
buffer, a piece can be given to the kernel now; what that does not take goes the ordinary way, so
that order, backpressure and errors stay Twisted's own.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.tcp import Connection
from twisted.web.http import Request

from rolemesh.core.sse import WholeEvents
from rolemesh.gateway.chunks import Chunks
from rolemesh.gateway.lane import Place

_BEGINNINGS = (b"data: {", b"event: ")


class ChunkWriter:
    """Writes a response's body over TCP, a chunk of HTTP/1.1 at a time."""

    __slots__ = ("_give", "_transport")

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._give: Callable[[bytes], int] = transport.socket.send

    def write(self, data: bytes) -> None:
        """Send `data` as one chunk."""
        if data:  # an empty chunk would end the answer
            self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def send(self, chunk: bytes) -> None:
        """Send what is a chunk already."""
        transport, sent = self._transport, 0
        if not (
            transport.dataBuffer
            or transport._tempDataBuffer
            or not transport.connected
            or transport.disconnecting
            or transport._writeDisconnected
            or transport._writeDisconnecting
        ):
            try:
                sent = self._give(chunk)
            except OSError:  # full, or lost: the ordinary way waits for the one, tells of the other
                sent = 0
        if sent < len(chunk):
            transport.write(chunk[sent:])


def chunk_writer(request: Request) -> ChunkWriter | None:
    """What writes to a response whose head has been written; None where only Twisted can."""
    transport = getattr(request.channel, "transport", None)
    if not isinstance(transport, Connection) or getattr(transport, "TLS", False):
        return None
    return ChunkWriter(transport) if transport.connected and request.chunked else None


class Shortcut:
    """From a backend's connection to a client's in one step, for a read that is one event in one
    chunk, as nearly all are. The chunk goes on as it came, since its size was found to be right.

    Any other read goes the ordinary way, and so does what follows until an event begins a read.
    """

    __slots__ = ("_chunks", "_events", "_note", "_ordinary", "_place", "_send", "_straight", "_tap")

    def __init__(
        self,
        chunks: Chunks,
        place: Place,
        note: Callable[[int], None],
        events: WholeEvents,
        tap: Callable[[bytes], None],
        writer: ChunkWriter,
    ) -> None:
        self._chunks = chunks
        self._place = place
        self._note = note
        self._events = events
        self._tap = tap
        self._send = writer.send
        self._ordinary = place.take
        self._straight = chunks.between and events.between
        place.take = self._take

    def _take(self, data: bytes) -> None:
        """All in one place, as calls would cost a fifteenth of an event; to write the size that the
        chunk should have is quicker than to read the one that it has."""
        begin, end = data.find(b"\r\n", 0, 10) + 2, len(data) - 2
        if not (
            self._straight
            and 2 < begin < end
            and data.startswith(b"%x\r\n" % (end - begin))
            and data.startswith(_BEGINNINGS, begin)
            and data.endswith(b"\n\n\r\n")
            and data.find(b"\n\n", begin) == end - 2
            and data.find(b"\r", begin) == end
        ):
            self._ordinary(data)
            self._straight = self._chunks.between and self._events.between
            return
        self._note(end - begin)
        self._send(data)
        self._tap(data[begin:end])

    def end(self) -> None:
        """Have all go the ordinary way."""
        self._place.take = self._ordinary
