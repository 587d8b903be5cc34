"""The gateways of a mesh: who is there, and what one of them does for all."""

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.gateway.store.interface import Meeting, Store, StoreFailed

BEAT, RETRY = 5.0, 1.0  # seconds
DUTY_EVERY = 3600.0


class Company(Service):
    """Says every five seconds that this gateway is there, and sees who else is.

    `id` is of this run of it, `url` where nodes reach it. `now` is who was there when the store
    could last tell. While this gateway leads, `duty` is done once an hour.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        store: Store,
        id: str,
        url: str | None,
        duty: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._clock = clock
        self._store = store
        self.id = id
        self._url = url
        self._duty = duty
        self._done = float("-inf")
        self._timer: IDelayedCall | None = None
        self._working: Deferred[float] | None = None
        self.now = Meeting((url,) if url else (), leads=False)

    def startService(self) -> None:
        super().startService()
        self._begin()

    def stopService(self) -> None:
        """What is asked of the store before it closes is still done."""
        super().stopService()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._working is not None:
            self._working.cancel()
        Deferred.fromCoroutine(self._store.leave(self.id)).addErrback(_not_heard)

    def _begin(self) -> None:
        self._working = working = Deferred.fromCoroutine(self._meet())
        working.addErrback(self._broke).addCallback(self._again)

    async def _meet(self) -> float:
        """Seconds until that is to be done again."""
        led = self.now.leads
        try:
            self.now = await self._store.meet(self.id, self._url)
        except StoreFailed:  # another one may lead before this one hears of it
            self.now = evolve(self.now, leads=False)
            return RETRY
        if self.now.leads and not led and self.now.count > 1:
            self.log.info("this gateway leads {count}", count=self.now.count)
        if self.now.leads and self._clock.seconds() - self._done >= DUTY_EVERY:
            self._done = self._clock.seconds()
            await self._duty()
        return BEAT

    def _again(self, seconds: float) -> None:
        self._working = None
        if self.running:
            self._timer = self._clock.callLater(seconds, self._begin)

    def _broke(self, failure: Failure) -> float:
        if not failure.check(CancelledError):
            self.log.failure("the gateways of this mesh are not known", failure)
        return BEAT


def _not_heard(failure: Failure) -> None:
    """The others see it by themselves."""
    failure.trap(StoreFailed, CancelledError)
