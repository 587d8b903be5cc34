"""Pieces that are sent at once arrive whole and in order, however slowly they are read."""

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase, TestCase

from rolemesh.gateway.eager import writer_for


class FakeRequest:
    """The part of a request that a writer is chosen by."""

    def __init__(self, transport: Any, *, chunked: bool) -> None:
        self.channel: Any = type("Channel", (), {"transport": transport})
        self.chunked = chunked
        self.written: list[bytes] = []
        self.write = self.written.append


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
            writer_for(request)(b"piece")
            self.assertEqual(request.written, [b"piece"])


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
        self.write = writer_for(request)

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
