"""The hardened edge: a connection with deadlines, limits and one strict reading of HTTP/1."""

import re
from typing import Any

from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.protocol import connectionDone
from twisted.protocols.basic import LineReceiver
from twisted.python.failure import Failure
from twisted.web import http

from rolemesh.config.listeners import Listener
from rolemesh.core.errors import Refusal
from rolemesh.gateway.deadline import Deadline
from rolemesh.gateway.edge_request import EdgeRequest, whole_refusal
from rolemesh.gateway.edge_site import EdgeSite, host_of
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


class EdgeChannel(http.HTTPChannel):
    """One connection: a request at a time, within its limits, answered or refused."""

    delimiter = b"\r\n\r\n"  # so that to LineReceiver a whole head is one line
    requestFactory = EdgeRequest
    site: EdgeSite
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
        self.site.on_refusal(refusal, request_id, host_of(self.getPeer()))

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
