"""The gateway from its first port to its last answer."""

from collections.abc import Sequence

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.gateway.edge_site import EdgeSite
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.upstream import Upstream
from rolemesh.gateway.usage import Ledger
from rolemesh.gateway.web import ClientApi
from rolemesh.service.listening import Listening

GRACE = 2.0  # seconds that balancers have to see that /ready says no
LAST_WORDS = 1.0  # seconds for error events to be flushed


class GatewayLife(Service):
    """Brings back what was kept, listens and watches; on stop it drains: no new requests, `drain`
    seconds for the others."""

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        listening: Listening,
        site: EdgeSite,
        watchers: Sequence[Service],
        upstream: Upstream,
        clients: ClientApi,
        keeper: Keeper,
        ledger: Ledger,
        drain: float,
    ) -> None:
        self._clock = clock
        self.listening = listening
        self._site = site
        self._watchers = watchers
        self._upstream = upstream
        self._clients = clients
        self._keeper = keeper
        self._ledger = ledger
        self.drain = drain
        self._opening: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        for watcher in self._watchers:
            watcher.startService()
        self._opening = Deferred.fromCoroutine(self._open())

    async def _open(self) -> None:
        """Listen once the nodes of before are known again, so that nobody is told otherwise."""
        try:
            await self._keeper.start()
            await self._ledger.start()
        except CancelledError:
            return
        self.listening.startService()

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        self._clients.draining = True
        await self._idle_within(GRACE)
        await self.listening.stop()
        await self._idle_within(self.drain - GRACE)
        self._clients.break_off()
        await self._idle_within(LAST_WORDS)
        await self._all_read_within(LAST_WORDS)
        for watcher in self._watchers:
            watcher.stopService()
        await self._upstream.close()
        await self._ledger.stop()
        await self._keeper.stop()
        self.log.info("drained")

    async def _idle_within(self, seconds: float) -> None:
        try:
            await self._clients.idle().addTimeout(max(0.0, seconds), self._clock)
        except TimeoutError:
            self.log.info("requests are still under way after {seconds} s", seconds=seconds)

    async def _all_read_within(self, seconds: float) -> None:
        try:
            await self._site.close_when_written().addTimeout(seconds, self._clock)
        except TimeoutError:
            self._site.abort()

    def hurry(self) -> None:
        """End every request now."""
        self._clients.break_off()
