"""The requests that are under way, to be waited for or cut off when the gateway stops."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.errors import Refusal
from rolemesh.gateway.records import Record


class UnderWay:
    """Requests from their first step to their last."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._working: set[Deferred[None]] = set()
        self._idle: Deferred[None] | None = None
        self._stopped = False

    async def run(self, request: Coroutine[Any, Any, None], record: Record) -> None:
        """Work on a request to its end.

        :raises Refusal: `draining`, when it was cut off before its record had an end.
        """
        working = Deferred.fromCoroutine(request)
        self._working.add(working)
        try:
            await working
        except CancelledError:
            if not self._stopped or record.end:
                raise
            raise draining() from None
        finally:
            self._working.discard(working)
            # Klein finishes the response only behind this coroutine.
            self._clock.callLater(0, self._tell_idle)

    def idle(self) -> Deferred[None]:
        """Fires once none is under way. Only one may wait."""
        if not self._working:
            return succeed(None)
        self._idle = Deferred(lambda _: setattr(self, "_idle", None))
        return self._idle

    def cut_off(self) -> None:
        """End every one now."""
        self._stopped = True
        for working in tuple(self._working):
            working.cancel()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._working:
            idle, self._idle = self._idle, None
            idle.callback(None)


def draining() -> Refusal:
    """What a client is told while the gateway stops."""
    return Refusal("draining", "The gateway is stopping. Send again.", retry_after=2.0)
