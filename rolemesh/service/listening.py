"""Where a program listens."""

import sys
from collections.abc import Callable, Iterable
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger

from rolemesh.service.exits import NO, leave, refuse, stop

_log = Logger()


class Listening(Service):
    """Endpoints and what is served on each, all or none: one that cannot be had stops the reactor
    and the process ends with 1. `ports` are the open ones, in the order of the endpoints; who is in
    `on_open` is called when all are.
    """

    def __init__(self, reactor: Any, served: Iterable[tuple[str, IProtocolFactory]]) -> None:
        self._reactor = reactor
        self._served = [(text, _endpoint(reactor, text), factory) for text, factory in served]
        self._opening: Deferred[None] | None = None
        self.ports: list[IListeningPort] = []
        self.on_open: list[Callable[[], None]] = []

    def startService(self) -> None:
        super().startService()
        self._opening = Deferred.fromCoroutine(self._open())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self.stop())

    async def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        if self._opening is not None:
            self._opening.cancel()
        while self.ports:
            await _stopped(self.ports.pop())

    async def _open(self) -> None:
        for text, endpoint, factory in self._served:
            try:
                port = await endpoint.listen(factory)
            except CancelledError:
                return
            except Exception as error:
                self._fail(text, error)
                return
            self.ports.append(port)
            _log.info("listening on {address}", address=_shown(port.getHost()))
        for told in self.on_open:
            told()

    def _fail(self, endpoint: str, error: Exception) -> None:
        line = f"cannot listen on {endpoint}: {_reason(error)}; free it or choose another"
        _log.critical("{line}", line=line)
        print(line, file=sys.__stderr__, flush=True)
        self._reactor.addSystemEventTrigger("after", "shutdown", leave, NO)
        stop(self._reactor)


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def _endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    try:
        return serverFromString(reactor, text)
    except Exception as error:  # each kind of endpoint has its own ways to say no
        refuse([f"cannot listen on {text!r}: {error}; an endpoint is like tcp:8000:interface=::1"])


def _shown(address: object) -> str:
    match address:
        case IPv4Address(host=host, port=port):
            return f"{host}:{port}"
        case IPv6Address(host=host, port=port):
            return f"[{host}]:{port}"
        case _:
            return str(address)


def _reason(error: Exception) -> str:
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or str(error)
    return str(error) or type(error).__name__
