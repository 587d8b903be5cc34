"""The edge as a whole: how many connections there are, of whom, and how all of them end."""

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web import server
from twisted.web.resource import IResource

from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge_request import EdgeRequest


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


class Connection(Protocol):
    """A channel as its site sees it."""

    transport: Any

    def getPeer(self) -> Any:
        """Who is at the other end."""

    def loseConnection(self) -> None:
        """Close it once all is written."""


class EdgeSite(server.Site):
    """Where connections to `resource` begin: counts them, and gives each what it needs.

    `channel` makes one. `new_id` names requests that bring no sane `x-request-id`. `on_refusal`
    hears each refusal that `resource` never saw, with the request's id and the peer's address, for
    logs and counters. `screen` sees each head before its body is read, and may raise a Refusal.
    """

    requestFactory = EdgeRequest

    def __init__(
        self,
        channel: Callable[[], Connection],
        resource: IResource,
        reactor: IReactorTime,
        limits: Limits,
        new_id: Callable[[], str],
        on_refusal: Callable[[Refusal, str, str], None],
        screen: Callable[[EdgeRequest], None],
    ) -> None:
        super().__init__(resource, reactor=reactor, timeout=None, parsePOSTFormSubmission=False)
        self.protocol = channel  # type: ignore[assignment]  # bare, so that it speaks no HTTP/2
        self.limits = limits
        self.new_id = new_id
        self.on_refusal = on_refusal
        self.screen = screen
        self.channels: set[Connection] = set()
        self._open: Counter[str] = Counter()
        self._all_closed: Deferred[None] | None = None

    def startFactory(self) -> None:
        """Open no access log: each request has its line from those who answer it."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """A channel for `addr`, or None, which closes at once, when too many are open."""
        host = host_of(addr)
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

    def forget_channel(self, channel: Connection) -> None:
        """A connection is no more."""
        self.channels.discard(channel)
        self.forget(channel.getPeer())
        if self._all_closed is not None and not self.channels:
            self._all_closed.callback(None)
            self._all_closed = None

    def forget(self, addr: IAddress) -> None:
        """One connection from `addr` is no more."""
        host = host_of(addr)
        self._open[host] -= 1
        if not self._open[host]:
            del self._open[host]


def host_of(address: IAddress | None) -> str:
    return getattr(address, "host", "")
