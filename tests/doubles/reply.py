"""One connection of the double and the answer that is being written on it."""

from enum import Enum
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

from attrs import define
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.doubles import wire

if TYPE_CHECKING:
    from tests.doubles.fakellama import Fakellama

REQUESTS_PER_CONNECTION = 100
IDLE_CLOSE = 5.0  # seconds
FLUSH = 0.01  # seconds, in which what was written leaves before a reset throws away the rest


class Ending(Enum):
    """How the double leaves a connection once it has written what it wants to."""

    KEEP = "keep"
    FIN = "fin"
    RST = "rst"
    HANG = "hang"


@define(eq=False)
class Call:
    """What the double saw of one request; times are the clock's, in seconds.

    `outcome` is "" while it runs, then "whole", "cut" (by the double) or "left" (by the client).
    `events` counts events of the answer itself, `pauses` how often the client stopped reading.
    """

    number: int
    connection: int
    request: wire.Request
    behaviour: str
    at: float
    first_byte_at: float | None = None
    ended_at: float | None = None
    outcome: str = ""
    events: int = 0
    pauses: int = 0


def tells_progress(data: bytes) -> bool:
    """Whether an event is about the prompt, and no part of the answer."""
    return b'"prompt_progress"' in data


class Driver(Shape):
    """Who writes an answer: goes on when the client reads again, stops when nobody wants it."""

    def resume(self) -> None: ...

    def stop(self, *, left: bool) -> None: ...


@implementer(IPushProducer)
class Reply:
    """How an answer is written. A spoilt answer is a subclass that overrides one verb."""

    streams = True  # whether a request for a stream gets one
    model: str | None = None  # the name it answers under, when not the server's own
    driver: Driver | None = None

    def __init__(self, connection: "Connection", call: Call, argument: str = "") -> None:
        self.connection = connection
        self.call = call
        self.argument = argument
        self.paused = False
        self.over = False
        connection.transport.registerProducer(self, True)

    def json(self, status: int, message: object) -> None:
        """A whole answer; an error closes the connection, as llama-server's do."""
        keep = status == 200 and self.connection.keeps
        self.write(wire.json_answer(status, message, wire.KEEP if keep else wire.CLOSE))
        self.end(Ending.KEEP if keep else Ending.FIN)

    def open(self) -> None:
        """The head of a stream, which promises a connection that will not be kept."""
        self.write(wire.stream_head(wire.KEEP if self.connection.keeps else wire.CLOSE))

    def event(self, data: bytes) -> None:
        if self.over:
            return
        self.call.events += not tells_progress(data)
        self.write(wire.chunk(wire.event(data)))

    def finish(self) -> None:
        """The last chunk; then the connection is closed whatever its head said."""
        self.write(wire.LAST_CHUNK)
        self.end(Ending.FIN)

    def write(self, data: bytes) -> None:
        if self.over:
            return
        if self.call.first_byte_at is None:
            self.call.first_byte_at = self.connection.fake.clock.seconds()
        self.connection.transport.write(data)

    def end(self, ending: Ending, outcome: str = "whole") -> None:
        """Leave the connection; with HANG it stays, and nothing more is said on it."""
        if self.over:
            return
        self.over = True
        if ending is not Ending.HANG:
            self._settle(outcome)
            self.connection.leave(ending)

    def gone(self) -> None:
        """The connection is closed, by whomever."""
        if not self.call.outcome:
            self._settle("left")
        self.over = True
        if self.driver is not None:
            self.driver.stop(left=self.call.outcome == "left")

    def _settle(self, outcome: str) -> None:
        self.call.outcome = outcome
        self.call.ended_at = self.connection.fake.clock.seconds()
        self.connection.fake.running.discard(self.call)

    def pauseProducing(self) -> None:
        self.paused = True
        self.call.pauses += 1

    def resumeProducing(self) -> None:
        self.paused = False
        if self.driver is not None:
            self.driver.resume()

    def stopProducing(self) -> None:
        """The connection's loss says it all; see `gone`."""


class Connection(Protocol):
    """One client's connection: its requests in order, one answer at a time."""

    transport: Any

    def __init__(self, fake: "Fakellama", number: int) -> None:
        self.fake = fake
        self.number = number
        self.served = 0
        self._reader = wire.Reader()
        self._reply: Reply | None = None
        self._busy = False
        self._idle = fake.clock.callLater(IDLE_CLOSE, self.close)
        self._closing = False

    @property
    def keeps(self) -> bool:
        return not self._closing and self.served + 1 < REQUESTS_PER_CONNECTION

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        self._serve()

    def _serve(self) -> None:
        if self._busy or (request := self._reader.next()) is None:
            return
        self._wait(None)
        self._busy = True  # set first, for an answer may be over before `meet` returns
        self._closing = request.wants_close
        self._reply = self.fake.meet(request, self)

    def leave(self, ending: Ending) -> None:
        """The answer is over: serve the next request, close, or reset."""
        self.transport.unregisterProducer()
        if ending is Ending.FIN:
            self.close()
        elif ending is Ending.RST:
            self.fake.clock.callLater(FLUSH, self.reset)
        else:
            self._next()

    def _next(self) -> None:
        self.served += 1
        self._busy = False
        self._wait(IDLE_CLOSE)
        self.fake.clock.callLater(0, self._serve)

    def close(self) -> None:
        self.transport.loseConnection()

    def reset(self) -> None:
        self.transport.abortConnection()

    def connectionLost(self, _: Failure = connectionDone) -> None:
        self._wait(None)
        self.fake.connections.discard(self)
        if self._reply is not None:
            self._reply.gone()

    def _wait(self, seconds: float | None) -> None:
        if self._idle.active():
            self._idle.cancel()
        if seconds is not None:
            self._idle = self.fake.clock.callLater(seconds, self.close)
