"""Pieces of a streamed answer, sent at once: the one place that reaches below Twisted's surface.

Twisted sends what is written in the next turn of the reactor, which for each event of a stream
costs two changes of what is polled for and a turn more. When nothing waits in a TCP transport's
buffer, a piece can be given to the kernel now; what that does not take goes the ordinary way, so
that order, backpressure and errors stay Twisted's own.
"""

from collections.abc import Callable
from typing import Any

from twisted.internet.tcp import Connection
from twisted.web.http import Request


def writer_for(request: Request) -> Callable[[bytes], None]:
    """How to write to a response whose head has been written."""
    transport = getattr(request.channel, "transport", None)
    if request.chunked and isinstance(transport, Connection) and not _is_tls(transport):
        return _Chunks(transport).write
    return request.write


def _is_tls(transport: Connection) -> bool:
    return bool(getattr(transport, "TLS", False))


class _Chunks:
    """Writes each piece as one chunk of HTTP/1.1."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def write(self, data: bytes) -> None:
        if data:  # an empty chunk would end the answer
            _send(self._transport, b"%x\r\n%b\r\n" % (len(data), data))


def _send(transport: Any, data: bytes) -> None:
    if transport.dataBuffer or transport._tempDataBuffer or not transport.connected:
        transport.write(data)
        return
    if transport.disconnecting or transport._writeDisconnected or transport._writeDisconnecting:
        transport.write(data)
        return
    try:
        sent = transport.socket.send(data)
    except OSError:  # full, or lost: the ordinary way waits for the one and tells of the other
        sent = 0
    if sent < len(data):
        transport.write(data[sent:])
