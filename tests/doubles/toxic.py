"""A small TCP proxy that spoils what passes: the bad network between two good programs."""

from collections import deque
from enum import Enum
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.doubles.alarms import Alarms


class Cut(Enum):
    """What happens to both ends once the count of bytes has passed."""

    FIN = "fin"
    RST = "rst"
    SILENCE = "silence"


@frozen
class Toxin:
    """How bytes from the server to the client are spoilt; seconds and bytes.

    `latency` delays all of them, `drip` sends them one at a time that far apart, `after` bytes the
    connection is `cut`. `deaf`: nothing from the client is read.
    """

    latency: float = 0.0
    drip: float = 0.0
    after: int | None = None
    cut: Cut = Cut.RST
    deaf: bool = False


PURE = Toxin()


class Toxic(Factory):
    """Listens on 127.0.0.1 and passes each connection to `port`; `toxin` may change at any time."""

    noisy = False

    def __init__(self, reactor: Any, port: int, toxin: Toxin = PURE) -> None:
        self.reactor = reactor
        self.alarms = Alarms(reactor)
        self.target = port
        self.toxin = toxin
        self.pairs: set[Near] = set()
        self._listening = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.port: int = self._listening.getHost().port

    def buildProtocol(self, _: object) -> "Near":
        return Near(self)

    def stop(self) -> Deferred[None]:
        """Reset every connection and accept no more."""
        self.alarms.call_off()
        for near in list(self.pairs):
            near.cut(Cut.RST)
        return maybeDeferred(self._listening.stopListening)


class Near(Protocol):
    """The client's side of one connection."""

    transport: Any

    def __init__(self, toxic: Toxic) -> None:
        self._toxic = toxic
        self._far = Far(self)
        self._queue: deque[bytes] = deque()
        self._sent = 0
        self._silent = False

    def connectionMade(self) -> None:
        self._toxic.pairs.add(self)
        if self._toxic.toxin.deaf:
            self.transport.pauseProducing()
        there = TCP4ClientEndpoint(self._toxic.reactor, "127.0.0.1", self._toxic.target)
        connectProtocol(there, self._far).addErrback(lambda _: self.cut(Cut.RST))

    def dataReceived(self, data: bytes) -> None:
        self._far.send(data)

    def connectionLost(self, _: Failure = connectionDone) -> None:
        self._toxic.pairs.discard(self)
        self._far.leave()

    def from_server(self, data: bytes) -> None:
        if not self._silent:
            self._toxic.alarms.callLater(self._toxic.toxin.latency, self._pass, data)

    def server_left(self) -> None:
        self._toxic.alarms.callLater(self._toxic.toxin.latency, self._end)

    def _pass(self, data: bytes) -> None:
        if not self._toxic.toxin.drip:
            self._write(data)
            return
        if not self._queue:
            self._toxic.alarms.callLater(self._toxic.toxin.drip, self._drip)
        self._queue.extend(data[n : n + 1] for n in range(len(data)))

    def _drip(self) -> None:
        self._write(self._queue.popleft())
        if self._queue:
            self._toxic.alarms.callLater(self._toxic.toxin.drip, self._drip)

    def _end(self) -> None:
        if self._queue:
            self._toxic.alarms.callLater(self._toxic.toxin.drip, self._end)
        elif not self._silent:
            self.transport.loseConnection()

    def _write(self, data: bytes) -> None:
        limit = self._toxic.toxin.after
        room = len(data) if limit is None else limit - self._sent
        self.transport.write(data[: max(room, 0)])
        self._sent += len(data)
        if limit is not None and room <= len(data) and not self._silent:
            self._silent = True
            self._toxic.alarms.callLater(0.01, self.cut, self._toxic.toxin.cut)

    def cut(self, how: Cut) -> None:
        """Cut this connection: politely, with a reset, or by passing nothing any more."""
        if how is Cut.FIN:
            self.transport.loseConnection()
        elif how is Cut.RST:
            self.transport.abortConnection()


class Far(Protocol):
    """The server's side; keeps what the client says until the server is there."""

    transport: Any = None

    def __init__(self, near: Near) -> None:
        self._near = near
        self._early: list[bytes] = []
        self._left = False

    def connectionMade(self) -> None:
        for data in self._early:
            self.transport.write(data)
        if self._left:
            self.leave()

    def send(self, data: bytes) -> None:
        if self.connected:
            self.transport.write(data)
        else:
            self._early.append(data)

    def leave(self) -> None:
        self._left = True
        if self.connected:
            self.transport.loseConnection()

    def dataReceived(self, data: bytes) -> None:
        self._near.from_server(data)

    def connectionLost(self, _: Failure = connectionDone) -> None:
        self._near.server_left()
