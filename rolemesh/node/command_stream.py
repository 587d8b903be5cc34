"""The stream that this node opens to a gateway, and by which orders come."""

from collections.abc import Callable

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

import rolemesh
from rolemesh.core.commands import LONGEST_COMMAND
from rolemesh.core.gateways import next_try
from rolemesh.core.sse import BrokenStream, Splitter
from rolemesh.node.orders import Orders
from rolemesh.tls.client import Untrusted

OPENING = 5.0  # seconds that a gateway may take to open the stream
SILENCE = 30.0  # seconds; a gateway says every ten that it is there
UNKNOWN_RETRY = 2.0  # seconds; whoever does not know us yet will once we are registered
REFUSED_RETRY = 60.0  # seconds; whoever refuses our token is not asked again at once


class NoStream(Exception):
    """There is none, or none any more. `status` is what the gateway answered instead."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class CommandStream(Service):
    """Listens to one gateway for as long as it runs, and opens the stream again whenever it ends.
    `path` is the node's own, below the gateway's URL."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        instance: str,
        token: str | None,
        agent: IAgent,
        clock: IReactorTime,
        orders: Orders,
        random: Callable[[], float],
    ) -> None:
        self._path = path
        self._instance = instance
        self._token = token
        self._agent = agent
        self._clock = clock
        self._orders = orders
        self._random = random
        self._listening: Deferred[None] | None = None
        self._failures = 0
        self._away_since = 0.0
        self._said = ""

    def startService(self) -> None:
        super().startService()
        self._listening = Deferred.fromCoroutine(self._listen_for_ever())
        self._listening.addErrback(_only_cancelled)

    def stopService(self) -> None:
        super().stopService()
        if self._listening is not None:
            self._listening.cancel()
        self._orders.stop()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except CancelledError:
                raise
            except Exception as problem:
                if not self.running:  # an Agent has other names for a cancel
                    return
                self._tell(str(problem) or type(problem).__name__)
                await deferLater(self._clock, self._wait(problem))

    def _wait(self, problem: Exception) -> float:
        if isinstance(problem, Untrusted):
            return REFUSED_RETRY
        match getattr(problem, "status", 0):
            case 401 | 403:
                return REFUSED_RETRY
            case 409 | 410:
                return UNKNOWN_RETRY
        now = self._clock.seconds()
        if not self._failures:
            self._away_since = now
        self._failures += 1
        return next_try(self._failures, now - self._away_since, self._random())

    async def _listen(self) -> None:
        headers = Headers({"user-agent": [f"rolemesh-node/{rolemesh.__version__}"]})
        if self._token is not None:
            headers.addRawHeader("authorization", f"Bearer {self._token}")
        url = f"{self._path}/commands?instance={self._instance}".encode()
        opening = self._agent.request(b"GET", url, headers, None)
        response = await opening.addTimeout(OPENING, self._clock)
        reader = _Events(self._clock, self._orders.hear)
        if response.code != 200:
            reader.refuse(NoStream(f"it answered {response.code}", response.code))
        else:
            self._failures = 0
            self._tell("")
        response.deliverBody(reader)
        await reader.done

    def _tell(self, said: str) -> None:
        if said and said != self._said:
            self._log.info("no commands from {path}: {why}", path=self._path, why=said)
        self._said = said


def _only_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


class _Events(Protocol):
    """Cuts a stream into commands. `done` fails when it ends, in whatever way."""

    def __init__(self, clock: IReactorTime, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._splitter = Splitter(LONGEST_COMMAND)
        self._why: Exception | None = None
        self._silence = clock.callLater(SILENCE, self._give_up, TimeoutError("it fell silent"))
        self.done: Deferred[None] = Deferred(lambda _: self._hang_up())

    def refuse(self, why: Exception) -> None:
        """Read nothing, and fail with that."""
        self._why = why

    def connectionMade(self) -> None:
        if self._why is not None:
            self._give_up(self._why)

    def dataReceived(self, data: bytes) -> None:
        if self._why is not None:
            return
        self._silence.reset(SILENCE)
        try:
            for event in self._splitter.feed(data):
                self._hear(event.data)
        except BrokenStream as broken:
            self._give_up(broken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_clock()
        if self.done.called:
            return
        ended = NoStream("the stream ended") if reason.check(ResponseDone) else reason
        self.done.errback(self._why or ended)

    def _give_up(self, why: Exception) -> None:
        self._why = why
        self._hang_up()

    def _hang_up(self) -> None:
        self._stop_clock()
        if self.transport is not None:
            self.transport.loseConnection()

    def _stop_clock(self) -> None:
        if self._silence.active():
            self._silence.cancel()
