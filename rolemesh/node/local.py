"""The node's own socket: who may open it is told how the node is, also with every gateway away."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.core.local import NodeStatus
from rolemesh.core.report import encode

MODE = 0o660
PATIENCE = 5.0  # seconds that a reader may take
MOST_READERS = 16


class _Teller(Protocol):
    """Says all of it at once, and hangs up; nothing that comes is read."""

    factory: "_Tellers"
    transport: Any  # of a unix socket, which Twisted gives no interface of its own

    def connectionMade(self) -> None:
        self._late = self.factory.reactor.callLater(PATIENCE, self.transport.abortConnection)
        self.transport.write(encode(self.factory.status()))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        self.factory.readers -= 1
        if self._late.active():
            self._late.cancel()


class _Tellers(Factory):
    """One for each reader."""

    noisy = False
    protocol: Any = _Teller

    def __init__(self, reactor: Any, status: Callable[[], NodeStatus]) -> None:
        self.reactor = reactor
        self.status = status
        self.readers = 0

    def buildProtocol(self, addr: IAddress | None) -> Any:
        if self.readers >= MOST_READERS:
            return None
        self.readers += 1
        return super().buildProtocol(addr)


class LocalSocket(Service):
    """The socket while the node runs; its file is ours, as the state folder is."""

    _log = Logger()

    def __init__(self, reactor: Any, path: Path, status: Callable[[], NodeStatus]) -> None:
        self._reactor = reactor
        self._path = path
        self._tellers = _Tellers(reactor, status)
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        super().startService()
        try:
            self._path.unlink(missing_ok=True)
            self._port = self._reactor.listenUNIX(str(self._path), self._tellers, mode=MODE)
        except (OSError, CannotListenError) as problem:
            self._log.error("no local socket, `rolemesh node` fails: {why}", why=str(problem))

    def stopService(self) -> Any:
        super().stopService()
        port, self._port = self._port, None
        return port.stopListening() if port is not None else None
