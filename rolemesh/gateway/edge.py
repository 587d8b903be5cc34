"""The hardened edge: connections with deadlines, limits and one strict reading of HTTP/1."""

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IHalfCloseableDescriptor, IReactorTime
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.resource import IResource

from rolemesh.config.listeners import Listener
from rolemesh.core.errors import Refusal
from rolemesh.gateway.deadline import Deadline
from rolemesh.gateway.edge_request import EdgeRequest, whole_refusal
from rolemesh.gateway.framing import (
    ChunkedBody,
    Head,
    SizedBody,
    may_begin,
    not_http,
    read_head,
    too_large,
)

LINGER = 5.0  # seconds that a client has to read a refusal, or the end of a broken answer
_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")


@frozen
class Limits:
    """What one client may take of the gateway; `address_connections` counts per peer address."""

    head_seconds: float = 10.0
    body_seconds: float = 30.0
    idle_seconds: float = 75.0
    head_bytes: int = 16 * 1024
    fields: int = 100
    body_bytes: int = 8 * 1024 * 1024
    ahead_bytes: int = 16 * 1024
    requests_per_connection: int = 100
    connections: int = 4096
    address_connections: int = 256


def _quiet(refusal: Refusal, request_id: str, address: str) -> None:
    pass


def _anybody(request: EdgeRequest) -> None:
    pass


class EdgeChannel(http.HTTPChannel):
    """One connection: a request at a time, within its limits, answered or refused."""

    delimiter = b"\r\n\r\n"  # so that to LineReceiver a whole head is one line
    requestFactory = EdgeRequest
    site: "EdgeSite"
    transport: Any  # TCP, Unix, TLS or in memory, which share no written interface
    listener = Listener("")  # by which it came; this one serves everything
    _closing = False
    _head_begun = False
    _body: SizedBody | ChunkedBody | None = None
    _taken = 0

    def connectionMade(self) -> None:
        self._limits = self.site.limits
        self.MAX_LENGTH = self._limits.head_bytes
        self._deadline = Deadline(self.site.reactor)
        self.site.channels.add(self)
        super().connectionMade()
        self._head_begun = True  # who connects has something to ask
        self._deadline.set(self._limits.head_seconds, self._head_is_late)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._deadline.stop()
        self.site.forget_channel(self)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            LineReceiver.dataReceived(self, data)
            if self.line_mode and self._buffer and not self._busyReceiving:
                self._await_head()
        except Refusal as refusal:
            self.refuse(refusal)

    def _await_head(self) -> None:
        if not may_begin(self._buffer):
            raise not_http()
        if not self._head_begun:
            self._head_begun = True
            self._deadline.set(self._limits.head_seconds, self._head_is_late)

    def lineLengthExceeded(self, line: bytes) -> None:
        if not may_begin(line):
            raise not_http()
        most = self._limits.head_bytes
        raise Refusal("headers_too_large", f"the request's head is longer than {most} bytes")

    def lineReceived(self, line: bytes) -> None:
        head = read_head(line, self._limits.fields)
        self._head_begun = False
        request = self._begin(head)
        if head.length is not None and head.length > self._limits.body_bytes:
            raise too_large(self._limits.body_bytes)
        self.site.screen(request)
        if head.length == 0:
            self.allContentReceived()
        else:
            self._await_body(head, request, self._most_of(request))

    def _begin(self, head: Head) -> EdgeRequest:
        request = self.requestFactory(self)
        request.begin(head, self._request_id(head))
        self.requests.append(request)
        self._command, self._path, self._version = head.method, head.target, head.version
        self._taken += 1
        if self._taken >= self._limits.requests_per_connection or not head.persists():
            self._make_last(request)
        return request

    def _request_id(self, head: Head) -> str:
        given = head.headers.getRawHeaders(b"x-request-id", ())
        if len(given) == 1 and _SANE_ID.fullmatch(given[0]):
            return given[0].decode()
        return self.site.new_id()

    def _make_last(self, request: EdgeRequest) -> None:
        self.persistent = False
        request.responseHeaders.setRawHeaders(b"connection", [b"close"])

    def _most_of(self, request: EdgeRequest) -> int:
        most = self._limits.body_bytes
        return most if request.longest_body is None else min(most, request.longest_body)

    def _await_body(self, head: Head, request: EdgeRequest, most: int) -> None:
        keep = request.content.write
        if head.length is None:
            self._body = ChunkedBody(most, keep)
        elif head.length > most:
            raise too_large(most)
        else:
            self._body = SizedBody(head.length, keep)
        if head.length is None or len(self._buffer) < head.length:
            self._deadline.set(self._limits.body_seconds, self._body_is_late)
        if head.awaits_continue():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.setRawMode()

    def rawDataReceived(self, data: bytes) -> None:
        if self._body is None:
            self._set_aside(data)
            return
        rest = self._body.feed(data)
        if rest is not None:
            self._body = None
            self._buffer = rest  # LineReceiver goes on with it
            self.allContentReceived()

    def _set_aside(self, data: bytes) -> None:
        """Keep what comes before the answer is out, or give its sender up as a neighbour.

        Twisted would stop reading here, and then not see the client leave.
        """
        ahead = b"".join((*self._dataBuffer, data))
        if len(ahead) > self._limits.ahead_bytes:
            ahead = b""
            self._make_last(self.requests[0])
        self._dataBuffer = [ahead]

    def allContentReceived(self) -> None:
        self._deadline.clear()
        super().allContentReceived()

    def requestDone(self, request: http.Request) -> None:
        self._deadline.set(self._limits.idle_seconds, self.loseConnection)
        super().requestDone(request)

    def _head_is_late(self) -> None:
        if self._buffer:
            self._refuse_late("head", self._limits.head_seconds)
        else:
            self._close(LINGER)

    def _body_is_late(self) -> None:
        self._refuse_late("body", self._limits.body_seconds)

    def _refuse_late(self, what: str, seconds: float) -> None:
        message = f"the request's {what} was not complete within {seconds:g} s"
        self.refuse(Refusal("request_timeout", message))

    def _respondToBadRequestAndDisconnect(self) -> None:
        raise Refusal("bad_request", "the request is not HTTP/1.1")

    def refuse(self, refusal: Refusal) -> None:
        """Answer with `refusal` before the request runs, and read no more of it."""
        path, request_id = b"", ""
        if self.requests:
            path, request_id = self.requests[-1].path, self.requests[-1].request_id
        request_id = request_id or self.site.new_id()
        self.transport.write(whole_refusal(refusal, path, request_id))
        self._close(LINGER)
        self.site.on_refusal(refusal, request_id, _host(self.getPeer()))

    def loseConnection(self) -> None:
        """Close once all is written; a whole answer has longer to be read than a broken one."""
        self._close(LINGER if self.requests else self._limits.idle_seconds)

    def _close(self, within: float) -> None:
        """Say that nothing follows, and hear the client out, so that no reset takes our words."""
        if self._closing:
            return
        self._closing = True
        self._buffer = b""
        self._deadline.set(within, self.transport.abortConnection)
        self._networkProducer.unregisterProducer()  # type: ignore[attr-defined]
        self._networkProducer.resumeProducing()
        half = IHalfCloseableDescriptor.providedBy(self.transport) and not self.isSecure()
        if half:
            self.transport.loseWriteConnection()
        else:
            self.transport.loseConnection()


def _host(address: IAddress | None) -> str:
    return getattr(address, "host", "")


class EdgeSite(server.Site):
    """Where connections begin: counts them, and gives each what it needs."""

    protocol = EdgeChannel  # type: ignore[assignment]  # bare, so that no HTTP/2 is negotiated
    requestFactory = EdgeRequest

    def __init__(
        self,
        resource: IResource,
        reactor: IReactorTime,
        limits: Limits,
        new_id: Callable[[], str],
        on_refusal: Callable[[Refusal, str, str], None],
        screen: Callable[[EdgeRequest], None],
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=None, parsePOSTFormSubmission=False)
        self.limits = limits
        self.new_id = new_id
        self.on_refusal = on_refusal
        self.screen = screen
        self.channels: set[EdgeChannel] = set()
        self._open: Counter[str] = Counter()
        self._all_closed: Deferred[None] | None = None

    def startFactory(self) -> None:
        """Open no access log: each request has its line from those who answer it."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel for `addr`, or None, which closes at once, when too many are open."""
        host = _host(addr)
        full = self._open.total() >= self.limits.connections
        if full or (host and self._open[host] >= self.limits.address_connections):
            whose = "in all" if full else "from this address"
            refusal = Refusal("rate_limit_exceeded", f"too many connections {whose}")
            self.on_refusal(refusal, "", host)
            return None
        self._open[host] += 1
        return super().buildProtocol(addr)

    def close_when_written(self) -> Deferred[None]:
        """Close every connection once what was written to it is read.

        Fires when the last one is closed. No request may be under way.
        """
        for channel in tuple(self.channels):
            channel.loseConnection()
        if not self.channels:
            return succeed(None)
        if self._all_closed is None:
            self._all_closed = Deferred()
        return self._all_closed

    def abort(self) -> None:
        """End every connection now, whatever of it is not read yet."""
        for channel in tuple(self.channels):
            channel.transport.abortConnection()

    def forget_channel(self, channel: EdgeChannel) -> None:
        """A connection is no more."""
        self.channels.discard(channel)
        self.forget(channel.getPeer())
        if self._all_closed is not None and not self.channels:
            self._all_closed.callback(None)
            self._all_closed = None

    def forget(self, addr: IAddress) -> None:
        """One connection from `addr` is no more."""
        host = _host(addr)
        self._open[host] -= 1
        if not self._open[host]:
            del self._open[host]


def build_site(
    resource: IResource,
    reactor: IReactorTime,
    new_id: Callable[[], str],
    limits: Limits = Limits(),
    on_refusal: Callable[[Refusal, str, str], None] = _quiet,
    screen: Callable[[EdgeRequest], None] = _anybody,
) -> EdgeSite:
    """The site that serves `resource` behind the hardened edge.

    `new_id` names requests that bring no sane `x-request-id`. `on_refusal` hears each refusal that
    `resource` never saw, with the request's id and the peer's address, for logs and counters.
    `screen` sees each head before its body is read, and may raise a Refusal.
    """
    return EdgeSite(resource, reactor, limits, new_id, on_refusal, screen)
