"""The promises of `rolemesh.gateway.relay`: rows C2, C3, B14, B15, B23, P3 and P6 among them."""

from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss

from rolemesh.core.attempts import Outcome
from rolemesh.core.sse import BrokenStream, WholeEvents
from rolemesh.gateway.relay import (
    LOOK_AT,
    Body,
    Broken,
    Client,
    Collector,
    Patience,
    SlowClient,
    never,
)
from rolemesh.gateway.upstream import TryFailed

PATIENCE = Patience(idle=60, until=3600, reader=30)


class Paced:
    """A sink that keeps what it is given, and the producer whose pace it sets."""

    def __init__(self) -> None:
        self.data = b""
        self.producer: Any = None
        self.ended = 0

    def write(self, data: bytes) -> None:
        self.data += data

    def begin(self, producer: Any) -> None:
        self.producer = producer

    def end(self) -> None:
        self.ended += 1


class RelayCase(SynchronousTestCase):
    """One body on a clock; the test is the upstream, and `line` the connection to it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.sink = Paced()
        self.open(lambda held: b"." in held)

    def open(self, enough: Any, most: int = 100) -> None:
        self.body = Body(self.clock, enough, most)
        self.line = StringTransport(lenient=True)
        self.body.makeConnection(self.line)

    def come(self, data: bytes) -> None:
        self.body.dataReceived(data)

    def end(self, reason: Exception | None = None) -> None:
        self.body.connectionLost(Failure(reason or ResponseDone()))

    def pour(self, patience: Patience = PATIENCE) -> Deferred[None]:
        return self.body.pour(self.sink, patience)

    @property
    def left(self) -> bool:
        """Whether the upstream was closed."""
        return self.line.producerState == "stopped"

    def assert_no_timer(self) -> None:
        self.assertEqual(self.clock.getDelayedCalls(), [])


class HoldTests(RelayCase):
    """Before a body is poured it is held."""

    def test_holds_until_enough(self) -> None:
        """`begun` fires when enough has come, with all of it, and the upstream is paused then."""
        self.come(b"one")
        self.assertNoResult(self.body.begun)
        self.come(b"two.x")
        self.assertEqual(self.successResultOf(self.body.begun), b"onetwo.x")
        self.assertEqual(self.line.producerState, "paused")

    def test_whole_bodies(self) -> None:
        """A body that is at its end is enough, however its end is marked."""
        for reason in (ResponseDone(), PotentialDataLoss()):
            self.open(never)
            self.come(b"all")
            self.end(reason)
            self.assertEqual(self.successResultOf(self.body.begun), b"all")

    def test_P3_cut_before_enough(self) -> None:
        """A body that breaks off while it is held is a backend that died."""
        self.come(b"half")
        self.end(ResponseFailed([Failure(ConnectionDone())]))
        failed = self.failureResultOf(self.body.begun, TryFailed).value
        self.assertIs(failed.outcome, Outcome.DIED)

    def test_too_long(self) -> None:
        """More than may be held is garbage, and the upstream is closed."""
        self.open(never, most=10)
        self.come(b"12345678901")
        failed = self.failureResultOf(self.body.begun, TryFailed).value
        self.assertIs(failed.outcome, Outcome.GARBLED)
        self.assertTrue(self.left)

    def test_P6_cancelled(self) -> None:
        """Cancelling what is waited for closes the upstream and is told as a cancel."""
        self.body.begun.cancel()
        self.assertTrue(self.left)
        self.failureResultOf(self.body.begun, CancelledError)
        self.end(ResponseFailed([Failure(ConnectionDone())]))

    def test_P6_cancel_heard_at_once(self) -> None:
        """An upstream that says in the very call that it is gone is still no dead backend."""
        self.line.stopProducing = lambda: self.end(ConnectionDone())  # type: ignore[method-assign]
        self.body.begun.cancel()
        self.failureResultOf(self.body.begun, CancelledError)


class PourTests(RelayCase):
    """A body is poured in its order, no faster than its sink takes it."""

    def test_order(self) -> None:
        """What was held comes first, then what follows, and `size` counts both."""
        self.come(b"a.")
        poured = self.pour()
        self.come(b"b")
        self.come(b"c")
        self.assertNoResult(poured)
        self.end()
        self.successResultOf(poured)
        self.assertEqual((self.sink.data, self.body.size), (b"a.bc", 4))
        self.assertEqual(self.sink.ended, 1)
        self.assert_no_timer()

    def test_over_before_it_is_poured(self) -> None:
        """A body that ended while it was held is poured all the same."""
        self.come(b"a.")
        self.come(b"b")
        self.end()
        self.successResultOf(self.pour())
        self.assertEqual(self.sink.data, b"a.b")
        self.assert_no_timer()

    def test_P3_cut_while_held(self) -> None:
        """One that broke off while it was held is broken after what was held."""
        self.come(b"a.")
        self.end(ResponseFailed([Failure(ConnectionDone())]))
        self.failureResultOf(self.pour(), Broken)
        self.assertEqual(self.sink.data, b"a.")

    def test_P3_cut(self) -> None:
        """A body that breaks off is broken, never at its end."""
        self.come(b"a.")
        poured = self.pour()
        self.end(ResponseFailed([Failure(ConnectionDone())]))
        broken = self.failureResultOf(poured, Broken).value
        self.assertIn("went away", str(broken))
        self.assert_no_timer()

    def test_C3_backpressure(self) -> None:
        """The sink's pause stops the upstream, and its resume lets it go on."""
        self.come(b"a.")
        self.pour()
        self.assertEqual(self.line.producerState, "producing")
        self.sink.producer.pauseProducing()
        self.assertEqual(self.line.producerState, "paused")
        self.sink.producer.resumeProducing()
        self.assertEqual(self.line.producerState, "producing")

    def test_P6_cancelled(self) -> None:
        """Cancelling a pour closes the upstream, is told as a cancel, and leaves no timer."""
        self.come(b"a.")
        poured = self.pour()
        poured.cancel()
        self.failureResultOf(poured, CancelledError)
        self.assertTrue(self.left)
        self.assert_no_timer()
        self.end(ResponseFailed([Failure(ConnectionDone())]))

    def test_P6_client_gone(self) -> None:
        """A sink that stops its producer, as a lost connection does, closes the upstream."""
        self.come(b"a.")
        self.pour()
        self.sink.producer.stopProducing()
        self.assertTrue(self.left)
        self.assert_no_timer()

    def test_break_off(self) -> None:
        """A pour can be ended from outside, with the reason for its client."""
        self.come(b"a.")
        poured = self.pour()
        self.body.break_off("was stopped")
        self.assertEqual(str(self.failureResultOf(poured, Broken).value), "was stopped")
        self.assertTrue(self.left)
        self.body.break_off("twice")

    def test_break_off_before(self) -> None:
        """What is not being poured has nobody to tell."""
        self.come(b"a.")
        self.body.break_off("too early")
        self.end()
        self.successResultOf(self.pour())

    def test_sink_that_cannot_read(self) -> None:
        """A sink that finds no event stream ends the pour, and the upstream with it."""
        self.come(b"a.")
        self.patch(self.sink, "write", self._refuse)
        self.failureResultOf(self.pour(), BrokenStream)
        self.assertTrue(self.left)
        self.assert_no_timer()

    def _refuse(self, _: bytes) -> None:
        raise BrokenStream("no events")

    def test_B14_less_than_a_line_is_no_progress(self) -> None:
        """Bytes that complete no line do not set the idle time anew: a drip is silence."""
        poured = self.pour()
        for _ in range(3):
            self.clock.advance(19)
            self.come(b"x")
        self.assertNoResult(poured)
        self.clock.advance(3)
        self.failureResultOf(poured, Broken)

    def test_B14_comments_are_no_progress(self) -> None:
        """What llama-server says when its model says nothing holds a silence up for one idle time,
        and not for ever."""
        poured = self.pour()
        for _ in range(3):
            self.clock.advance(30)
            self.come(b":\n\n")
        self.clock.advance(29)
        self.come(b": still here\n\n")
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_B14_one_comment(self) -> None:
        """A comment gives no more time than an event would."""
        poured = self.pour()
        self.clock.advance(30)
        self.come(b":\n\n")
        self.clock.advance(59)
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_B14_an_event_behind_a_comment(self) -> None:
        """But an event does, also where it came together with a comment."""
        poured = self.pour()
        for _ in range(2):
            self.clock.advance(50)
            self.come(b":\n\ndata: {}\n\n")
        self.clock.advance(59)
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_B14_progress_that_shows_elsewhere(self) -> None:
        """An upstream that is seen to get on may be silent for longer than the idle time."""
        seen = [0.0]
        poured = self.pour(Patience(idle=60, until=3600, progress=lambda: seen[0]))
        self.clock.advance(50)
        seen[0] = 50.0
        self.clock.advance(59)
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_collector(self) -> None:
        """A collector takes everything, looks at many pieces at once, and sets no pace."""
        taken: list[bytes] = []
        collector = Collector(taken.append)
        self.come(b"a.")
        poured = self.body.pour(collector, PATIENCE)
        for _ in range(LOOK_AT):
            self.come(b"b")
        self.end()
        self.successResultOf(poured)
        collector.finish()
        collector.finish()
        self.assertEqual(taken, [b"a." + b"b" * (LOOK_AT - 2), b"bb"])


class PatienceTests(RelayCase):
    """How long a pour may take, judged on the clock."""

    def setUp(self) -> None:
        super().setUp()
        self.come(b"a.")

    def test_B15_idle(self) -> None:
        """An upstream without a byte for the idle time is broken off, and not before."""
        poured = self.pour()
        self.clock.advance(59.9)
        self.assertNoResult(poured)
        self.clock.advance(0.1)
        self.assertIn("silent for 60 s", str(self.failureResultOf(poured, Broken).value))
        self.assertTrue(self.left)
        self.assert_no_timer()

    def test_B15_idle_begins_anew(self) -> None:
        """Each byte gives the whole idle time again."""
        poured = self.pour()
        for _ in range(5):
            self.clock.advance(50)
            self.come(b"b\n")
        self.clock.advance(59)
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_B23_total(self) -> None:
        """However much comes, a pour ends at its deadline."""
        poured = self.pour(Patience(idle=60, until=100))
        for _ in range(9):
            self.clock.advance(11)
            self.come(b"b\n")
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.assertIn("longer than", str(self.failureResultOf(poured, Broken).value))
        self.assertTrue(self.left)

    def test_C3_slow_client(self) -> None:
        """A client that takes nothing for its time is given up; the backend is not blamed."""
        poured = self.pour()
        self.clock.advance(50)
        self.sink.producer.pauseProducing()
        self.clock.advance(29.9)
        self.assertNoResult(poured)
        self.clock.advance(0.1)
        self.failureResultOf(poured, SlowClient)
        self.assertTrue(self.left)
        self.assert_no_timer()

    def test_C3_reads_again(self) -> None:
        """After a pause the upstream has its whole idle time, for it could not be heard."""
        poured = self.pour()
        self.clock.advance(50)
        self.sink.producer.pauseProducing()
        self.clock.advance(29)
        self.sink.producer.resumeProducing()
        self.clock.advance(59)
        self.assertNoResult(poured)
        self.clock.advance(1)
        self.failureResultOf(poured, Broken)

    def test_one_timer(self) -> None:
        """Events cost no timers: there is one, whatever comes."""
        self.pour()
        for _ in range(10):
            self.come(b"b\n")
            self.clock.advance(1)
        self.sink.producer.pauseProducing()
        self.sink.producer.resumeProducing()
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)


class Written:
    """The part of a request that a client's sink needs."""

    channel: object | None = object()
    chunked = False
    producer: object = None

    def __init__(self) -> None:
        self.data: list[bytes] = []
        self.write = self.data.append

    def registerProducer(self, producer: object, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None


class ClientTests(SynchronousTestCase):
    """The client's side of a relay."""

    def setUp(self) -> None:
        self.request = cast(Any, Written())
        self.tapped: list[bytes] = []
        self.client = Client(self.request, self.tapped.append, WholeEvents())

    def test_half_events_are_held_back(self) -> None:
        """Half an event reaches neither client nor tap before its rest is there."""
        self.client.write(b"data: {}\n\ndata:")
        self.client.write(b" []")
        self.assertEqual(self.request.data, [b"data: {}\n\n"])
        self.client.write(b"\n\n")
        self.assertEqual(self.request.data, [b"data: {}\n\n", b"data: []\n\n"])
        self.assertEqual(self.tapped, self.request.data)

    def test_producer(self) -> None:
        """The upstream is the request's producer for as long as it pours."""
        body = Body(Clock(), never, 100)
        self.client.begin(body)
        self.assertIs(self.request.producer, body)
        self.client.end()
        self.assertIsNone(self.request.producer)

    def test_client_gone(self) -> None:
        """A request whose connection was lost has no producer to be taken away."""
        self.request.channel = None
        self.request.producer = self
        self.client.end()
        self.assertIs(self.request.producer, self)
