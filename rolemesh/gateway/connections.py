"""Connections to backends, and what of Twisted's HTTP client is made stricter or plainer."""

import re
import socket
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import (
    HostnameEndpoint,
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IStreamClientEndpoint
from twisted.internet.protocol import Protocol
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web._newclient import (
    HTTP11ClientProtocol,
    ParseError,
)
from twisted.web.client import URI, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from rolemesh.core.addresses import read_address
from rolemesh.gateway.chunks import Chunks
from rolemesh.gateway.lane import Lane

LONGEST_HEAD = 64 * 1024
MOST_FIELDS = 100
MOST_INTERIM = 10

_KINDS: Mapping[type, Any] = {IPv4Address: TCP4ClientEndpoint, IPv6Address: TCP6ClientEndpoint}
_LENGTHS = re.compile(rb"^(?:content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)
_KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 15),
    (socket.TCP_KEEPINTVL, 5),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 20_000),
)


class _StrictHead(HTTP11ClientProtocol):
    """Twisted bounds a header line, but not how many there are, nor how many 1xx answers come;
    and it reads a head that gives its body two lengths. Bodies in chunks are read in `lane`."""

    transport: Any
    _parser: Any
    _transportProxy: Any
    _head: bytes | None = b""
    _interim = 0
    _chunks: Chunks | None = None

    def __init__(self, quiescent: Callable[[Any], None], lane: Lane) -> None:
        super().__init__(quiescent)
        self._lane = lane

    def connectionMade(self) -> None:
        super().connectionMade()
        _notice_silence(self.transport)

    def request(self, request: Any) -> Deferred[IResponse]:
        self._head, self._interim = b"", 0
        response = super().request(request)
        if self._parser is not None:
            self._parser._transferDecoders = {b"chunked": self._begin_chunks}
        return response

    def _begin_chunks(
        self, deliver: Callable[[bytes], None], finish: Callable[[bytes], None]
    ) -> Chunks:
        self._chunks = self._transportProxy.chunks = Chunks(deliver, finish)
        self._chunks.place = self._lane.enter(self.transport, self.dataReceived)
        return self._chunks

    def _disconnectParser(self, reason: Failure) -> None:
        chunks, self._chunks = self._chunks, None
        if chunks is not None and chunks.place is not None:
            chunks.place.leave()
        super()._disconnectParser(reason)

    def dataReceived(self, bytes: bytes) -> None:
        if self._chunks is not None:
            self._read_chunks(self._chunks, bytes)
        elif self._head is not None and self._refuses(self._head + bytes):
            self._giveUp(Failure(ParseError("the head of the answer cannot be accepted", b"")))
        else:
            super().dataReceived(bytes)

    def _read_chunks(self, chunks: Chunks, data: bytes) -> None:
        try:
            chunks.dataReceived(data)
        except Exception:
            self._giveUp(Failure())

    def _refuses(self, head: bytes) -> bool:
        """Whether what has come is the beginning of no acceptable head."""
        end = head.find(b"\r\n\r\n")
        while end >= 0 and head.startswith((b"HTTP/1.1 1", b"HTTP/1.0 1")) and head[9:12].isdigit():
            self._interim += 1
            head = head[end + 4 :]
            end = head.find(b"\r\n\r\n")
        self._head = head if end < 0 else None
        if end < 0:
            return len(head) > LONGEST_HEAD or self._interim > MOST_INTERIM
        return len(_LENGTHS.findall(head, 0, end)) > 1 or head.count(b"\n", 0, end) > MOST_FIELDS


def _notice_silence(transport: Any) -> None:
    """Have the kernel find out when a backend's machine has lost power, within half a minute."""
    below = getattr(transport, "transport", transport)  # that of TLS
    get_handle = getattr(below, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if isinstance(handle, socket.socket) and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


class _Factory(_HTTP11ClientFactory):
    noisy = False

    def __init__(self, lane: Lane, quiescent: Callable[[Any], None], metadata: str) -> None:
        super().__init__(quiescent, metadata)
        self._lane = lane

    def buildProtocol(self, _: object) -> HTTP11ClientProtocol:
        return _StrictHead(self._quiescentCallback, self._lane)


@implementer(IAgent)
class PlainAgent:
    """What treq adds that a proxy must not have is taken out here, below it: gzip and cookies."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Deferred[IResponse]:
        if headers is not None:
            headers.setRawHeaders(b"accept-encoding", [b"identity"])
            headers.removeHeader(b"cookie")
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(_as_asked)


def _as_asked(response: IResponse) -> IResponse:
    """Refuse a packed answer here, before treq would unpack it without a limit."""
    encodings = response.headers.getRawHeaders("content-encoding") or []
    if any(each not in ("", "identity") for each in encodings):  # llama-server sends ""
        response.deliverBody(_Unwanted())
        raise ParseError("the answer is packed, which was not asked for", b"")
    return response


class _Unwanted(Protocol):
    """A body that nobody wants."""

    transport: Any

    def connectionMade(self) -> None:
        self.transport.stopProducing()


@implementer(IAgentEndpointFactory)
@frozen
class Endpoints:
    """Where to connect for a URL: to `address` where one is given, with its certificate verified by
    the URL's name all the same. An address is connected to at once; Twisted's endpoint for names
    waits a third of a second for further addresses before it tells that one has refused."""

    reactor: Any
    timeout: float
    address: str | None = None

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").strip("[]")
        where = self.address or host
        endpoint = _kind_of(where)(self.reactor, where, uri.port, timeout=self.timeout)
        if uri.scheme == b"https":
            return wrapClientTLS(_tls_with(host), endpoint)
        return endpoint


@lru_cache(maxsize=64)
def _tls_with(host: str) -> IOpenSSLClientConnectionCreator:
    """Kept, as to read the system's CAs takes longer than many a request."""
    return optionsForClientTLS(host)


@lru_cache(maxsize=1024)
def _kind_of(host: str) -> Any:
    return _KINDS.get(type(read_address(host)), HostnameEndpoint)


class Pool(HTTPConnectionPool):
    """Connections to backends; `reused` tells of the latest request whether it got a kept one."""

    maxPersistentPerHost = 64
    cachedConnectionTimeout = 4
    retryAutomatically = False
    reused = False

    def __init__(self, reactor: Any, persistent: bool, lane: Lane) -> None:
        super().__init__(reactor, persistent)
        self._factory = partial(_Factory, lane)  # type: ignore[assignment]

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        connection = super().getConnection(key, endpoint)
        self.reused = connection.called
        return connection
