"""One upstream body into one sink, no faster than the sink takes it."""

from collections.abc import Callable
from typing import Any
from typing import Protocol as Interface

from attrs import define, field, frozen
from twisted.internet import protocol
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, Request
from twisted.web.iweb import IResponse
from zope.interface import implementer

from rolemesh.core.attempts import Outcome
from rolemesh.core.sse import BrokenStream, WholeEvents
from rolemesh.gateway.chunks import Chunks
from rolemesh.gateway.eager import ChunkWriter, Shortcut, chunk_writer
from rolemesh.gateway.upstream import TryFailed

LOOK_AT = 16 * 1024  # bytes


class Sink(Interface):
    """Where a body goes. A sink that cannot keep up pauses the body it was given."""

    def write(self, data: bytes) -> None: ...

    def begin(self, body: "Body") -> None: ...

    def end(self) -> None: ...


Through = Callable[[bytes], bytes]
Enough = Callable[[bytearray], bool]


class Client:
    """The client's side of a relay: what `through` makes of each piece is written, and tapped."""

    def __init__(self, request: Request, tap: Callable[[bytes], None], through: Through) -> None:
        self._request = request
        self._tap = tap
        self._through = through
        self._give: Callable[[bytes], None] = self._give_first
        self._writer: ChunkWriter | None = None
        self._shortcut: Shortcut | None = None

    def write(self, data: bytes) -> None:
        passed = self._through(data)
        if passed:
            self._give(passed)
            self._tap(passed)

    def _give_first(self, data: bytes) -> None:
        self._request.write(data)  # and the head with it
        self._give = self._request.write
        if getattr(self._request, "channel", None) is not None:
            self._writer = chunk_writer(self._request)
        if self._writer is not None:
            self._give = self._writer.write

    def begin(self, body: "Body") -> None:
        self._request.registerProducer(body, True)
        chunks, events = body.chunks, self._through
        if chunks is None or self._writer is None or not isinstance(events, WholeEvents):
            return
        if chunks.place is not None:
            self._shortcut = Shortcut(
                chunks, chunks.place, body.note, events, self._tap, self._writer
            )

    def end(self) -> None:
        if self._shortcut is not None:
            self._shortcut.end()
        if getattr(self._request, "channel", None) is not None:  # the client has not gone
            self._request.unregisterProducer()


@define(eq=False)
class Collector:
    """A sink that only looks, at many pieces at once, which is quicker, and never is too slow.

    What came last is looked at once the body is over and `finish` is called.
    """

    _look: Callable[[bytes], None]
    _pieces: list[bytes] = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def write(self, data: bytes) -> None:
        self._pieces.append(data)
        self._size += len(data)
        if self._size >= LOOK_AT:
            self.finish()

    def finish(self) -> None:
        """Look at all that has come."""
        data, self._size = b"".join(self._pieces), 0
        self._pieces.clear()
        if data:
            self._look(data)

    def begin(self, body: "Body") -> None:
        pass

    def end(self) -> None:
        pass


def _unknown() -> float:
    return 0.0


@frozen
class Patience:
    """How long a pour may take, in seconds: without an event, and until an instant of the clock.

    A comment shows that the upstream's process lives, and holds a silence up as if it were an
    event, but no longer than `idle`. `progress` tells when the upstream was last seen to get on by
    other means than what it sends. `reader` is how long a client may read nothing of what waits.
    """

    idle: float
    until: float
    reader: float = 60.0
    progress: Callable[[], float] = _unknown


class Broken(Exception):
    """A body ended before its time. `why` is a clause fit for a client, `code` its error's."""

    def __init__(self, why: str, code: str = "upstream_disconnected") -> None:
        super().__init__(why)
        self.code = code


class SlowClient(Exception):
    """The client has not read for too long."""


@implementer(IPushProducer)
class Body(protocol.Protocol):
    """An upstream's body: held until enough of it is there, then poured.

    `begun` fires with what is held once `enough(held)`, which may take something out, says so, or
    the body is at its end; it fails with TryFailed. Cancelling it, or the Deferred of `pour`,
    closes the upstream at once. `moved` is when the last event was poured.
    """

    transport: Any  # Twisted's stand-in for a body's connection has no written interface
    chunks: Chunks | None = None

    def __init__(self, clock: IReactorTime, enough: Enough, most: int) -> None:
        self._clock = clock
        self._enough = enough
        self._most = most
        self._held = bytearray()
        self._sink: Sink | None = None
        self._end: Failure | None = None
        self._patience = Patience(0, 0)
        self._timer: IDelayedCall | None = None
        self.moved = 0.0
        self._lived = 0.0
        self._paused: float | None = None
        self.size = 0
        self.begun: Deferred[bytes] = Deferred(self._give_up)
        self._poured: Deferred[None] = Deferred(self._give_up)

    @property
    def over(self) -> bool:
        """Whether all of the body has come."""
        return self._end is not None

    def _give_up(self, waiting: Deferred[Any]) -> None:
        """Say so before the upstream is closed, which would tell of one that went away."""
        self._settle()
        waiting.errback(CancelledError())
        self._leave()

    def _leave(self) -> None:
        self._cancel_timer()
        if self.transport is not None:
            self.transport.stopProducing()

    def connectionMade(self) -> None:
        """Have what comes in chunks from where it is read, without Twisted's steps between."""
        self.chunks = getattr(self.transport, "chunks", None)
        if self.chunks is not None:
            self.chunks.deliver = self.dataReceived

    def note(self, size: int) -> None:
        """So many bytes went from the upstream to the sink without coming by here."""
        self.size += size
        self.moved = self._clock.seconds()

    def dataReceived(self, data: bytes) -> None:
        self.size += len(data)
        if self._sink is not None:
            self._give(self._sink, data)
            return
        self._held += data
        if not self.begun.called:
            self._hold()

    def _give(self, sink: Sink, data: bytes) -> None:
        if _is_comment(data):
            self._lived = self._clock.seconds()
        elif b"\n" in data:  # less than a line is no progress
            self.moved = self._clock.seconds()
        try:
            sink.write(data)
        except BrokenStream as broken:
            if not self._poured.called:
                self._break(broken)

    def _hold(self) -> None:
        if len(self._held) > self._most:
            self.begun.errback(TryFailed(Outcome.GARBLED, "too long"))
            self._leave()
        elif self._enough(self._held):
            self.transport.pauseProducing()
            self.begun.callback(bytes(self._held))

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        self._end = reason
        if self._sink is not None:
            self._finish()
        elif not self.begun.called and self._whole():
            self.begun.callback(bytes(self._held))
        elif not self.begun.called:
            self.begun.errback(TryFailed(Outcome.DIED, type(reason.value).__name__))

    def _whole(self) -> bool:
        return self._end is not None and bool(self._end.check(ResponseDone, PotentialDataLoss))

    def pour(self, sink: Sink, patience: Patience) -> Deferred[None]:
        """Give `sink` what is held and all that follows.

        Fires at the body's proper end. Fails with Broken when the upstream breaks off or is silent
        for too long, with BrokenStream when the sink cannot read it, and with SlowClient when the
        sink takes nothing for too long.
        """
        self._sink, self._patience = sink, patience
        self.moved = self._clock.seconds()
        held, self._held = bytes(self._held), bytearray()
        if held:
            self._give(sink, held)
        if self._poured.called:
            return self._poured
        if self._end is not None:
            self._finish()
            return self._poured
        self._look()
        sink.begin(self)
        self.transport.resumeProducing()
        return self._poured

    def _look(self) -> None:
        """Judge silence once in a while: to reset a timer for each event would cost more."""
        now = self._clock.seconds()
        moved = max(self.moved, self._patience.progress())
        alive = max(moved, min(self._lived, moved + self._patience.idle))
        since = alive if self._paused is None else self._paused
        limit = self._patience.idle if self._paused is None else self._patience.reader
        if now >= self._patience.until:
            self._break(Broken("took longer than the role allows"))
        elif now - since >= limit:
            slow = self._paused is not None
            self._break(SlowClient() if slow else Broken(f"was silent for {limit:.0f} s"))
        else:
            wait = min(since + limit, self._patience.until) - now
            self._timer = self._clock.callLater(wait, self._look)

    def _finish(self) -> None:
        if not self._whole():
            self._break(Broken("went away in the middle of its answer"))
            return
        self._settle()
        if not self._poured.called:
            self._poured.callback(None)

    def _break(self, why: Exception) -> None:
        self._settle()
        self._leave()
        if not self._poured.called:
            self._poured.errback(why)

    def break_off(self, why: str) -> None:
        """Fail the pour with Broken(why), if there is one under way."""
        if self._sink is not None and not self._poured.called:
            self._break(Broken(why))

    def _settle(self) -> None:
        """Have done with the sink, whose request may be over before the upstream is."""
        self._cancel_timer()
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.end()

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    # The sink's word on its pace

    def pauseProducing(self) -> None:
        self._paused = self._clock.seconds()
        self._cancel_timer()
        self._look()
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        self._paused = None
        self.moved = self._clock.seconds()
        self._cancel_timer()
        self._look()
        self.transport.resumeProducing()

    def stopProducing(self) -> None:
        self._leave()


def _is_comment(data: bytes) -> bool:
    """Whether there is no event in what an upstream sent, as in what llama-server sends each half
    minute while its model says nothing, be that slow or wedged."""
    return data.startswith(b":") and b"data:" not in data


def receive(response: IResponse, clock: IReactorTime, enough: Enough, most: int) -> Body:
    """Take a response's body in, held until it is poured or read."""
    body = Body(clock, enough, most)
    response.deliverBody(body)
    return body


def never(_: bytearray) -> bool:
    """Hold the whole body."""
    return False
