"""The promises of `rolemesh.gateway.lane`, on real sockets."""

from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rolemesh.gateway.lane import Lane, Place

reactor: Any = _reactor


class Line(Protocol):
    """One end of a connection."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.taken = b""
        self.lost: Deferred[None] = Deferred()
        self.why: Any = None

    def dataReceived(self, data: bytes) -> None:
        self.data += data

    def take(self, data: bytes) -> None:
        self.taken += data

    def connectionLost(self, reason: Any = None) -> None:
        self.why = reason.value
        self.lost.callback(None)


class LaneTests(TestCase):
    async def setUp(self) -> None:  # type: ignore[override]
        self.lane = Lane(reactor)
        self.servers: list[Any] = []
        test = self

        class Server(Protocol):
            def connectionMade(self) -> None:
                test.servers.append(self.transport)

        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        self.port: Any = await endpoint.listen(Factory.forProtocol(Server))
        self.addCleanup(self.port.stopListening)

    async def line(self) -> Line:
        """A connection that is paused, as one is whose answer begins; the test is its server."""
        line = Line()
        address = self.port.getHost()
        await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", address.port), line)
        line.transport.pauseProducing()
        self.addCleanup(self.close, line)
        return line

    async def close(self, line: Line) -> None:
        line.transport.abortConnection()
        await line.lost

    def enter(self, line: Line) -> Place:
        place = self.lane.enter(line.transport, line.take)
        assert place is not None
        return place

    async def turns(self) -> None:
        """What was sent before has had the time to come."""
        for _ in range(5):  # so that the reactor has looked, however late it comes to it
            await deferLater(reactor, 0.01)

    async def test_reads_while_not_paused(self) -> None:
        """What comes is taken, and waits while the connection is paused."""
        line = await self.line()
        self.enter(line)
        await self.turns()
        self.servers[0].write(b"one")
        await self.turns()
        self.assertEqual(line.taken, b"")
        line.transport.resumeProducing()
        await self.turns()
        self.assertEqual(line.taken, b"one")
        line.transport.pauseProducing()
        self.servers[0].write(b"two")
        await self.turns()
        self.assertEqual(line.taken, b"one")
        line.transport.resumeProducing()
        await self.turns()
        self.assertEqual((line.taken, line.data), (b"onetwo", b""))

    async def test_left(self) -> None:
        """One that has left is read or not, as it was; to leave twice is to leave once."""
        line = await self.line()
        place = self.enter(line)
        line.transport.resumeProducing()
        place.leave()
        place.leave()
        await self.turns()
        self.servers[0].write(b"one")
        await self.turns()
        self.assertEqual((line.taken, line.data), (b"", b"one"))
        line.transport.pauseProducing()
        self.enter(line).leave()
        self.servers[0].write(b"two")
        await self.turns()
        self.assertEqual(line.data, b"one")

    async def test_its_end(self) -> None:
        """An end is the reactor's to tell, after all that came before it."""
        line = await self.line()
        self.enter(line)
        line.transport.resumeProducing()
        await self.turns()
        self.servers[0].write(b"last words")
        self.servers[0].loseConnection()
        await line.lost
        self.assertEqual(line.taken + line.data, b"last words")

    async def test_reset(self) -> None:
        """So is a reset, which is told as one."""
        line = await self.line()
        self.enter(line)
        line.transport.resumeProducing()
        await self.turns()
        self.servers[0].abortConnection()
        await line.lost
        self.assertIsInstance(line.why, ConnectionLost)

    async def test_nothing_left_behind(self) -> None:
        """The reactor watches the lane only while something in it is to be read."""
        lines = [await self.line(), await self.line()]
        for line in lines:
            self.enter(line)
            line.transport.resumeProducing()
        self.assertIn(self.lane, reactor.getReaders())
        lines[0].transport.pauseProducing()
        lines[1].transport.abortConnection()
        self.assertNotIn(self.lane, reactor.getReaders())
        lines[0].transport.resumeProducing()
        self.servers[0].write(b"still")
        await self.turns()
        self.assertEqual(lines[0].taken, b"still")

    async def test_one_that_leaves_while_another_is_read(self) -> None:
        """Who takes may make others leave, pause or close in that very turn."""
        lines = [await self.line() for _ in range(3)]
        places = [self.enter(line) for line in lines]
        for place, line in zip(places, lines, strict=True):
            line.transport.resumeProducing()
            place.take = self.only(line, lines)
        await self.turns()
        for server in self.servers:
            server.write(b"x")
        await self.turns()
        self.assertEqual(sorted(line.taken for line in lines), [b"", b"", b"x"])

    def only(self, line: Line, lines: list[Line]) -> Any:
        def take(data: bytes) -> None:
            line.take(data)
            for other in lines:
                if other is not line:
                    other.transport.pauseProducing()

        return take

    async def test_one_whose_reader_fails(self) -> None:
        """It is closed, and the others go on."""
        lines = [await self.line(), await self.line()]
        places = [self.enter(line) for line in lines]
        places[0].take = self.fails
        for line in lines:
            line.transport.resumeProducing()
        await self.turns()
        for server in self.servers:
            server.write(b"x")
        await self.turns()
        self.assertTrue(lines[0].lost.called)
        self.assertEqual(lines[1].taken, b"x")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def fails(self, _: bytes) -> None:
        raise ZeroDivisionError


class ChoiceTests(SynchronousTestCase):
    def test_only_what_the_reactor_reads_so(self) -> None:
        """What is no plain TCP is left to Twisted."""
        self.assertIsNone(Lane(reactor).enter(StringTransport(), print))
