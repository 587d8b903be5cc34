"""A site behind the edge, in memory, and connections to it made of bytes."""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from attrs import field, frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableDescriptor
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server
from twisted.web.resource import Resource
from zope.interface import directlyProvides

from rolemesh.gateway.edge import EdgeChannel
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.edge_site import EdgeSite, Limits

GET = b"GET /a HTTP/1.1\r\nHost: gw\r\n\r\n"
LIMITS = Limits()
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n"


class Wire(StringTransport):
    """A client's connection in memory, which can be closed on the server's side alone."""

    half_closed = False
    aborted = False

    def __init__(self, peer: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", peer, 50000))
        directlyProvides(self, IHalfCloseableDescriptor)

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        self.aborted = True


class Echo(Resource):
    """Answers at once with what it was asked, and remembers how often."""

    isLeaf = True
    asked = 0

    def render(self, request: EdgeRequest) -> bytes:
        self.asked += 1
        body = request.content.read()
        said = [request.method, request.uri, body]
        return b"|".join(said)


class Later(Resource):
    """Keeps each request for the test to answer."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.requests: list[EdgeRequest] = []

    def render(self, request: EdgeRequest) -> int:
        self.requests.append(request)
        return server.NOT_DONE_YET


@frozen
class Answer:
    status: int
    body: bytes
    headers: dict[bytes, bytes] = field(eq=False)

    @property
    def code(self) -> str:
        return json.loads(self.body)["error"]["code"]


def answers(data: bytes) -> Iterator[Answer]:
    """The answers in `data`, each with its length in its head."""
    while data:
        head, _, data = data.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        headers = {n.lower(): v for n, _, v in (f.partition(b": ") for f in fields)}
        status, length = int(line.split()[1]), int(headers.get(b"content-length", b"0"))
        if status != 100:
            yield Answer(status, data[:length], headers)
        data = data[length:]


class EdgeTestCase(SynchronousTestCase):
    """One site on a clock, and connections to it."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refused: list[tuple[str, str, str]] = []
        self.echo = Echo()
        self.site = self.build(self.echo)

    def build(
        self,
        resource: Any,
        limits: Limits = LIMITS,
        screen: Callable[[EdgeRequest], None] = lambda _: None,
    ) -> EdgeSite:
        names = (f"req_{n}" for n in range(10**6))
        self.site = EdgeSite(
            EdgeChannel,
            resource,
            self.clock,
            limits,
            lambda: next(names),
            lambda refusal, id, peer: self.refused.append((refusal.code, id, peer)),
            screen,
        )
        return self.site

    def connect(self, peer: str = "192.0.2.1") -> tuple[EdgeChannel, Wire]:
        wire = Wire(peer)
        channel = self.site.buildProtocol(wire.getPeer())
        channel.makeConnection(wire)
        return channel, wire

    def leave(self, channel: EdgeChannel) -> None:
        channel.connectionLost(Failure(ConnectionDone()))

    def send(self, pieces: Iterable[bytes]) -> tuple[EdgeChannel, Wire]:
        channel, wire = self.connect()
        for piece in pieces:
            channel.dataReceived(piece)
        return channel, wire

    def one_answer(self, *pieces: bytes) -> Answer:
        _, wire = self.send(pieces)
        (answer,) = answers(wire.value())
        return answer


def single_bytes(raw: bytes) -> list[bytes]:
    return [raw[at : at + 1] for at in range(len(raw))]
