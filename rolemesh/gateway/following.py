"""A server's log on its way to an operator."""

from collections.abc import Callable

import msgspec
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.commands import Result
from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.event_stream import EventStream

PATIENCE = 10.0  # seconds that an operator waits for a node's answer


class Following:
    """A log on its way from a node to one operator, who may be slower than the log, for as long as
    `admit` raises no Refusal."""

    def __init__(
        self, clock: IReactorTime, request: EdgeRequest, admit: Callable[[], object]
    ) -> None:
        self._clock = clock
        self._request = request
        self._admit = admit
        self._stream: EventStream | None = None
        self._first: Deferred[Result] = Deferred()
        self._dropped = 0
        self._at = ""

    def hear(self, result: Result) -> None:
        """Take in a part."""
        if self._stream is None:
            if not self._first.called:
                self._first.callback(result)
        else:
            self._pass_on(self._stream, result)

    async def tell(self) -> bytes | None:
        """The log as JSON, or as a stream where more follows.

        :raises Refusal: when the node does not answer, or does not have it.
        """
        try:
            first = await self._first.addTimeout(PATIENCE, self._clock)
        except TimeoutError:
            message = f"the node has not answered within {PATIENCE:.0f} s"
            raise Refusal("upstream_timeout", message) from None
        if not first.done:
            raise Refusal("bad_request", first.message)
        if not first.more:
            return self._request.as_json({"lines": first.lines})
        self._stream = stream = EventStream(self._clock, self._request, self._admit)
        opened = Deferred.fromCoroutine(stream.run())
        self._pass_on(stream, first)
        await opened
        return None

    def _pass_on(self, stream: EventStream, result: Result) -> None:
        if not result.done:
            stream.send(msgspec.json.encode({"error": {"message": result.message}}))
        elif stream.full:
            self._dropped += len(result.lines)
        elif result.lines or result.at != self._at:
            self._tell_dropped(stream)
            self._at = result.at
            stream.send(msgspec.json.encode({"lines": result.lines, "at": result.at}))
        if not result.more:
            stream.end()

    def _tell_dropped(self, stream: EventStream) -> None:
        if self._dropped:
            line = f"… {self._dropped} lines left out: they were not read fast enough"
            stream.send(msgspec.json.encode({"lines": [line]}))
            self._dropped = 0
