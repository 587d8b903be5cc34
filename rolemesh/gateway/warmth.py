"""A streaming client that waits is kept warm with comments, which its library skips."""

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from rolemesh.core.sse import KEEP_ALIVE
from rolemesh.gateway.edge_request import EdgeRequest

STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


class KeepWarm:
    """Commits to a stream after `after` seconds, and then says every so often that it lives on.

    From its first comment on, what goes wrong can be told in the stream only: see `begun`.
    """

    def __init__(self, clock: IReactorTime, request: EdgeRequest, after: float, role: str) -> None:
        self._clock = clock
        self._request = request
        self._after = after
        self._role = role
        self._timer: IDelayedCall | None = clock.callLater(after, self._comment)
        self.begun = False

    def _comment(self) -> None:
        if not self.begun:
            self.begun = True
            for name, value in {**STREAM_HEADERS, "x-rolemesh-role": self._role}.items():
                self._request.setHeader(name, value)
        self._request.write(KEEP_ALIVE)
        self._timer = self._clock.callLater(self._after, self._comment)

    def stop(self) -> None:
        """Say nothing more."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
