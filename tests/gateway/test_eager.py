"""Pieces that are sent at once arrive whole and in order, however slowly they are read."""

import contextlib
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.web.http import _MalformedChunkedDataError

from rolemesh.core.sse import WholeEvents
from rolemesh.gateway.chunks import Chunks
from rolemesh.gateway.eager import ChunkWriter, Shortcut, chunk_writer


class FakeRequest:
    """The part of a request that a writer is chosen by."""

    def __init__(self, transport: Any, *, chunked: bool) -> None:
        self.channel: Any = type("Channel", (), {"transport": transport})
        self.chunked = chunked


def unchunked(data: bytes) -> list[bytes]:
    """The chunks of a body, in order."""
    chunks = []
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        chunks.append(rest[:length])
        data = rest[length + 2 :]
    return chunks


class ChoiceTests(SynchronousTestCase):
    def test_not_where_it_would_be_wrong(self) -> None:
        """Without chunks, or on what is no plain TCP, Twisted's own way is taken."""
        for chunked in (True, False):
            request: Any = FakeRequest(StringTransport(), chunked=chunked)
            self.assertIsNone(chunk_writer(request))


class Sent(ChunkWriter):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        self.chunks: list[bytes] = []

    def send(self, chunk: bytes) -> None:
        self.chunks.append(chunk)


class Reads:
    """A place without a socket."""

    take: Any = None


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENT = b'data: {"text": "a\\n\\nb"}\n\n'
NAMED = b'event: delta\ndata: {"text": ""}\n\n'
DONE = b"data: [DONE]\n\n"


class ShortcutTests(SynchronousTestCase):
    """The test is the backend's connection; what goes the ordinary way is kept in `ordinary`."""

    def setUp(self) -> None:
        self.events, self.sent, self.place = WholeEvents(), Sent(), Reads()
        self.tapped, self.noted = b"", 0
        self.ordinary: list[bytes] = []
        self.chunks = Chunks(self.deliver, lambda _: None)
        self.place.take = self.take
        place: Any = self.place
        self.shortcut = Shortcut(self.chunks, place, self.note, self.events, self.tap, self.sent)

    def take(self, data: bytes) -> None:
        self.ordinary.append(data)
        self.chunks.dataReceived(data)

    def deliver(self, data: bytes) -> None:
        self.note(len(data))
        passed = self.events(data)
        self.sent.write(passed)
        self.tap(passed)

    def note(self, size: int) -> None:
        self.noted += size

    def tap(self, data: bytes) -> None:
        self.tapped += data

    def test_an_event_in_a_chunk(self) -> None:
        """It goes to the client as it came, counted and tapped."""
        for event in (EVENT, NAMED):
            self.place.take(chunk(event))
        self.assertEqual(self.sent.chunks, [chunk(EVENT), chunk(NAMED)])
        self.assertEqual((self.noted, self.tapped), (len(EVENT + NAMED), EVENT + NAMED))
        self.assertEqual(self.ordinary, [])

    def test_B25_anything_else(self) -> None:
        """More or less than an event, a comment and what is no JSON are looked at closer."""
        for data in (EVENT * 2, DONE, b": hello\n\n", b"data: {}\r\rdata: x\n\n", b"id: 1\n\n"):
            self.place.take(chunk(data))
            self.assertEqual(self.ordinary.pop(), chunk(data))
        self.assertEqual(self.ordinary, [])

    def test_B13_other_sizes(self) -> None:
        """A size that is not written in the usual way, or is not right, is looked at closer."""
        for size in (b"0%x", b"%X", b"%x;x"):
            data = size % len(EVENT) + b"\r\n" + EVENT + b"\r\n"
            self.place.take(data)
            self.assertEqual(self.ordinary.pop(), data)
        self.assertEqual(unchunked(b"".join(self.sent.chunks)), [EVENT] * 3)
        for wrong in (len(EVENT) - 1, len(EVENT) + 1):
            data = b"%x\r\n%b\r\n" % (wrong, EVENT)
            self.setUp()
            with contextlib.suppress(_MalformedChunkedDataError):
                self.place.take(data)
            self.assertEqual(self.ordinary, [data])

    def test_half_an_event(self) -> None:
        """Behind half an event nothing is sent until its rest has come."""
        self.place.take(chunk(b'data: {"a":'))
        self.place.take(chunk(EVENT))
        self.assertEqual(self.ordinary, [chunk(b'data: {"a":'), chunk(EVENT)])
        self.place.take(chunk(EVENT))
        self.assertEqual(len(self.ordinary), 2)

    def test_B25_however_it_is_cut(self) -> None:
        """In whatever reads a stream comes, the client gets the same bytes, and so does the tap."""
        events = (EVENT, NAMED, EVENT * 2, b": hi\n\n", EVENT, DONE)
        body = b"".join(map(chunk, events))
        for first in range(len(body)):
            for second in range(first, min(len(body), first + 50)):
                self.setUp()
                for piece in filter(None, (body[:first], body[first:second], body[second:])):
                    self.place.take(piece)
                sent = b"".join(unchunked(b"".join(self.sent.chunks)))
                self.assertEqual(sent, b"".join(events))
                self.assertEqual((self.tapped, self.noted), (sent, len(sent)))

    def test_ended(self) -> None:
        """Once it has ended, all goes the ordinary way."""
        self.shortcut.end()
        self.place.take(chunk(EVENT))
        self.assertEqual(self.ordinary, [chunk(EVENT)])


class SocketTests(TestCase):
    """Over a real socket, which takes only so much at once."""

    async def setUp(self) -> None:  # type: ignore[override]
        self.server: Deferred[Any] = Deferred()
        self.done: Deferred[bytes] = Deferred()
        test = self

        class Server(Protocol):
            def connectionMade(self) -> None:
                test.server.callback(self.transport)

        class Reader(Protocol):
            data = b""

            def dataReceived(self, data: bytes) -> None:
                self.data += data

            def connectionLost(self, _: Any = None) -> None:
                test.done.callback(self.data)

        endpoint = TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1")
        port = await endpoint.listen(Factory.forProtocol(Server))
        self.addCleanup(port.stopListening)
        address: Any = port.getHost()
        client = TCP4ClientEndpoint(reactor, "127.0.0.1", address.port)
        self.reader: Any = await connectProtocol(client, Reader())
        self.transport = await self.server
        request: Any = FakeRequest(self.transport, chunked=True)
        writer = chunk_writer(request)
        assert writer is not None
        self.write = writer.write

    async def test_C3_more_than_the_kernel_takes(self) -> None:
        """A reader that pauses gets every piece in order; what does not fit waits in the buffer."""
        self.reader.transport.pauseProducing()
        pieces = [b"%06d" % n * 2000 for n in range(1000)]
        for piece in pieces:
            self.write(piece)
        self.assertTrue(self.transport._tempDataBuffer or self.transport.dataBuffer)
        self.reader.transport.resumeProducing()
        self.transport.loseConnection()
        self.assertEqual(unchunked(await self.done), pieces)

    async def test_sent_at_once(self) -> None:
        """A piece that fits leaves nothing behind in the buffer; an empty one is not written."""
        self.write(b"hello")
        self.write(b"")
        self.assertFalse(self.transport._tempDataBuffer or self.transport.dataBuffer)
        self.transport.loseConnection()
        self.assertEqual(await self.done, b"5\r\nhello\r\n")

    async def test_after_the_reader_left(self) -> None:
        """Writing to a client that has gone raises nothing."""
        self.reader.transport.abortConnection()
        await self.done
        for _ in range(100):
            self.write(b"x" * 1000)
        self.transport.loseConnection()
