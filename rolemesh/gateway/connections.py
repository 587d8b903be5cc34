"""Connections to backends, and what of Twisted's HTTP client is made stricter or plainer."""

import re
import socket
from collections.abc import Mapping
from functools import lru_cache
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
from twisted.internet.interfaces import IStreamClientEndpoint
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
    and it reads a head that gives its body two lengths."""

    transport: Any
    _head: bytes | None = b""
    _interim = 0

    def connectionMade(self) -> None:
        super().connectionMade()
        _notice_silence(self.transport)

    def request(self, request: Any) -> Deferred[IResponse]:
        self._head, self._interim = b"", 0
        return super().request(request)

    def dataReceived(self, bytes: bytes) -> None:
        if self._head is not None and self._refuses(self._head + bytes):
            self._giveUp(Failure(ParseError("the head of the answer cannot be accepted", b"")))
            return
        super().dataReceived(bytes)

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
    get_handle = getattr(transport, "getHandle", None)
    handle = get_handle() if get_handle is not None else None
    if isinstance(handle, socket.socket) and handle.family in (socket.AF_INET, socket.AF_INET6):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            handle.setsockopt(socket.IPPROTO_TCP, option, value)


class _Factory(_HTTP11ClientFactory):
    noisy = False

    def buildProtocol(self, _: object) -> HTTP11ClientProtocol:
        return _StrictHead(self._quiescentCallback)


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
    """Where to connect for a URL. An address is connected to at once; Twisted's endpoint for names
    waits a third of a second for further addresses before it tells that one has refused."""

    reactor: Any
    timeout: float

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii").strip("[]")
        kind = _kind_of(host)
        endpoint = kind(self.reactor, host, uri.port, timeout=self.timeout)
        if uri.scheme == b"https":
            return wrapClientTLS(optionsForClientTLS(host), endpoint)
        return endpoint


@lru_cache(maxsize=1024)
def _kind_of(host: str) -> Any:
    return _KINDS.get(type(read_address(host)), HostnameEndpoint)


class Pool(HTTPConnectionPool):
    """Connections to backends; `reused` tells of the latest request whether it got a kept one."""

    maxPersistentPerHost = 64
    cachedConnectionTimeout = 4
    retryAutomatically = False
    reused = False

    def __init__(self, reactor: Any, persistent: bool) -> None:
        super().__init__(reactor, persistent)
        self._factory = _Factory

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        connection = super().getConnection(key, endpoint)
        self.reused = connection.called
        return connection
