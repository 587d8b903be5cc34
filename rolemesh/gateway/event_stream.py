"""A stream of server-sent events to one reader, kept alive until either side ends it."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from rolemesh.core.errors import Refusal
from rolemesh.core.sse import KEEP_ALIVE, event
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.warmth import STREAM_HEADERS

KEEP_ALIVE_EVERY = 10.0  # seconds


@implementer(IPushProducer)
class EventStream:
    """`full` while the reader takes nothing in: who has much to say leaves it out then.

    `admit` raises a Refusal once the reader may no longer listen, such as by a revoked key.
    """

    def __init__(
        self, clock: IReactorTime, request: EdgeRequest, admit: Callable[[], object]
    ) -> None:
        self.full = False
        self._request = request
        self._admit = admit
        self._alive = LoopingCall(self._keep_alive)
        self._alive.clock = clock
        self._end: Deferred[None] = Deferred()

    async def run(self) -> None:
        """Be open until `end`; to be cancelled when the reader has gone."""
        for name, value in STREAM_HEADERS.items():
            self._request.setHeader(name, value)
        self._request.registerProducer(self, True)
        self._alive.start(KEEP_ALIVE_EVERY)
        try:
            await self._end
        finally:
            self._close()

    def send(self, data: bytes) -> None:
        """One event."""
        if self._alive.running:
            self._request.write(event(data))

    def end(self) -> None:
        """Nothing follows."""
        if not self._end.called:
            self._end.callback(None)

    def _close(self) -> None:
        self._alive.stop()
        if self._request.channel is not None:
            self._request.unregisterProducer()

    def _keep_alive(self) -> None:
        try:
            self._admit()
        except Refusal:
            self.end()
            return
        if not self.full:
            self._request.write(KEEP_ALIVE)

    def pauseProducing(self) -> None:
        self.full = True

    def resumeProducing(self) -> None:
        self.full = False

    def stopProducing(self) -> None:
        self.end()
