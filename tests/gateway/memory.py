"""A whole gateway in memory: the tap's own composition on a clock, between clients and backends
that the test plays by hand. Nothing sleeps and nothing opens a socket."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    TimeoutError,
)
from twisted.internet.interfaces import IHalfCloseableDescriptor, IHostnameResolver
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import directlyProvides, implementer, provider

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener
from rolemesh.core.model import Policy, Role, Target
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.wiring import build
from tests.doubles import raw, wire

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
NOT_LLAMA = (404, {"error": {"message": "File Not Found"}})
CLIENT = IPv4Address("TCP", "127.0.0.1", 50000)


class Line(StringTransport):
    """The gateway's end of one connection; the test is at the other end.

    `closed` once the gateway has ended it, `aborted` when with a reset; bytes that come while
    the gateway reads nothing wait, as in a kernel.
    """

    protocol: Any
    producer: Any

    def __init__(
        self, clock: Any, peer: IPv4Address, heard: Callable[[bytes], None] = lambda _: None
    ) -> None:
        super().__init__(peerAddress=peer, lenient=True)
        directlyProvides(self, IHalfCloseableDescriptor)
        self._clock = clock
        self._heard = heard
        self._waiting: list[bytes] = []
        self._end: Failure | None = None
        self._lost = False
        self._deaf = False
        self.closed = False
        self.aborted = False

    def attach(self, protocol: Any) -> "Line":
        self.protocol = protocol
        protocol.makeConnection(self)
        return self

    def write(self, data: bytes) -> None:
        super().write(data)
        self._heard(data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def say(self, data: bytes) -> None:
        """Bytes arrive."""
        self._waiting.append(data)
        self._deliver()

    def hang_up(self, reason: Exception | None = None) -> None:
        """The other end closes the connection once all that it said was read."""
        self._end = Failure(reason or ConnectionDone())
        self._deliver()

    @property
    def unread(self) -> int:
        """How many bytes the gateway has left in the kernel."""
        return sum(map(len, self._waiting))

    def _deliver(self) -> None:
        while self._waiting and self.producerState == "producing" and not self._deaf:
            self.protocol.dataReceived(self._waiting.pop(0))
        if self._end is not None and (self._deaf or not self._waiting):
            self._lose(self._end)

    def _lose(self, reason: Failure) -> None:
        self._deaf = True
        if not self._lost:
            self._lost = True
            self.protocol.connectionLost(reason)

    def resumeProducing(self) -> None:
        super().resumeProducing()
        self._clock.callLater(0, self._deliver)

    def stopProducing(self) -> None:
        self.loseConnection()

    def loseConnection(self) -> None:
        self.closed = self._deaf = True
        self._clock.callLater(0, self._lose, Failure(ConnectionDone()))

    def loseWriteConnection(self) -> None:
        self.closed = True

    def abortConnection(self) -> None:
        self.closed = self.aborted = self._deaf = True
        self._clock.callLater(0, self._lose, Failure(ConnectionAborted()))


class Exchange:
    """One request that a backend got, and its answer, which the test gives piece by piece."""

    def __init__(self, line: Line, request: wire.Request) -> None:
        self.line = line
        self.request = request

    @property
    def left(self) -> bool:
        """Whether the gateway has closed the connection."""
        return self.line.closed

    def json(self, status: int, message: object, more: str = "") -> None:
        """A whole answer; the connection closes behind it."""
        self.say(wire.json_answer(status, message, wire.CLOSE, more))
        self.end()

    def head(self) -> None:
        """The head of a stream."""
        self.say(wire.stream_head())

    def event(self, data: object) -> None:
        self.say(wire.chunk(wire.event(wire.encode(data))))

    def text(self, *words: str, finish: str | None = None) -> None:
        """Events of a streamed chat that say so."""
        for word in words:
            self.event(piece(word))
        if finish is not None:
            self.event(piece(None, finish))

    def done(self) -> None:
        """The proper end of a stream."""
        self.event(wire.DONE)
        self.finish()

    def finish(self) -> None:
        """The last chunk, and the end of the connection."""
        self.say(wire.LAST_CHUNK)
        self.end()

    def say(self, data: bytes) -> None:
        self.line.say(data)

    def end(self) -> None:
        self.line.hang_up()

    def die(self) -> None:
        """The process is gone: a reset."""
        self.line.hang_up(ConnectionLost())


class Server:
    """A backend on a port of the memory net: answers checks by itself and keeps work for the test.

    `mood` is accept, refuse or silent; `health` and `props` are a status with a body, None for no
    answer; `slots` is what it tells of its slots. `checks` are the paths of the checks that it got.
    """

    def __init__(self, net: "Net", port: int) -> None:
        self.net = net
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.mood = "accept"
        self.health: tuple[int, Any] | None = (200, {"status": "ok"})
        self.props: tuple[int, Any] | None = NOT_LLAMA
        self.slots: Callable[[], Any] = lambda: {"data": []}
        self.checks: list[str] = []
        self.work: list[Exchange] = []

    def llama(self, slots: int = 1, context: int = 4096, **more: Any) -> "Server":
        """Make it say that it is llama.cpp's."""
        settings = {"default_generation_settings": {"n_ctx": context}, "total_slots": slots}
        self.props = (200, {**settings, "build_info": "b1", **more})
        return self

    def connect(self, protocol: Any) -> None:
        """Take a connection of the gateway's."""
        reader = wire.Reader()

        def heard(data: bytes) -> None:
            reader.feed(data)
            request = reader.next()
            if request is not None:
                self.net.callLater(0, self._meet, Exchange(line, request))

        line = Line(self.net, IPv4Address("TCP", "127.0.0.1", self.port), heard)
        line.attach(protocol)

    def _meet(self, exchange: Exchange) -> None:
        if exchange.request.method == "POST":
            self.work.append(exchange)
            return
        self.checks.append(exchange.request.path)
        path = exchange.request.path
        known = {"/health": self.health, "/props": self.props, "/slots": (200, self.slots())}
        answer = known.get(path, (200, {"data": []}))
        if answer is not None and not exchange.left:
            exchange.json(*answer)


@implementer(IHostnameResolver)
class Names:
    """Finds every address under its own text."""

    def resolveHostName(  # type: ignore[override]  # as it is called
        self, receiver: Any, hostName: str, portNumber: int = 0
    ) -> Any:
        receiver.resolutionBegan(self)
        receiver.addressResolved(IPv4Address("TCP", hostName, portNumber))
        receiver.resolutionComplete()
        return self

    def cancel(self) -> None:
        """There is nothing under way."""


class Net(MemoryReactorClock):
    """A reactor whose connections lead to servers of the test, by port; `threaded` counts the calls
    that were given to a thread."""

    def __init__(self) -> None:
        super().__init__()
        self.nameResolver = Names()
        self.servers: dict[int, Server] = {}
        self.threaded = 0

    def server(self) -> Server:
        server = Server(self, 8081 + len(self.servers))
        self.servers[server.port] = server
        return server

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30, bindAddress: Any = None
    ) -> Any:
        connector = super().connectTCP(host, port, factory, timeout, bindAddress)
        server = self.servers.get(port)
        mood = server.mood if server is not None else "refuse"
        if mood == "accept":
            self.callLater(0, self._accept, server, factory, connector)
        else:
            silent = mood == "silent"
            error = TimeoutError() if silent else ConnectionRefusedError()
            self.callLater(timeout if silent else 0, self._fail, factory, connector, error)
        return connector

    def _accept(self, server: Any, factory: Any, connector: Any) -> None:
        if not connector.stoppedConnecting:
            address = IPv4Address("TCP", "127.0.0.1", server.port)
            server.connect(factory.buildProtocol(address))

    def _fail(self, factory: Any, connector: Any, error: Exception) -> None:
        if not connector.stoppedConnecting:
            factory.clientConnectionFailed(connector, Failure(error))

    def getThreadPool(self) -> "Net":
        return self

    def callInThreadWithCallback(self, told: Any, call: Any, *args: Any) -> None:
        """Do at once what a thread would do."""
        self.threaded += 1
        told(True, call(*args))

    def callFromThread(self, call: Any, *args: Any) -> None:
        self.callLater(0, call, *args)

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that is due."""
        if seconds:
            self.advance(seconds)
        for _ in range(200):
            if not any(call.getTime() <= self.seconds() for call in self.getDelayedCalls()):
                return
            self.advance(0)
        raise AssertionError("something is due again and again")

    def spend(self, seconds: float, step: float = 0.25) -> None:
        """Let time pass in small steps, as it does."""
        for _ in range(round(seconds / step)):
            self.turn(step)


class Client:
    """One connection of a client to the gateway."""

    def __init__(self, net: Net, factory: Any) -> None:
        self._net = net
        self.line = Line(net, CLIENT).attach(factory.buildProtocol(CLIENT))

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: Mapping[str, str] = raw.NONE,
        close: bool = True,
    ) -> "Client":
        data = b"" if body is None else wire.encode(body)
        fields = {"Host": "localhost", **headers}
        if close:
            fields["Connection"] = "close"
        if body is not None:
            fields["Content-Length"] = str(len(data))
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.line.say(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data)
        self._net.turn()
        return self

    @property
    def answer(self) -> raw.Answer:
        """What came until now."""
        return raw.Answer(self.line.value(), self.line.aborted)

    @property
    def answered(self) -> bool:
        return bool(self.line.value())

    def leave(self) -> None:
        """Close the connection."""
        self.line.hang_up()
        self._net.turn()

    def stop_reading(self) -> None:
        """Let the gateway's buffer for this client be full."""
        self.line.producer.pauseProducing()

    def read_on(self) -> None:
        self.line.producer.resumeProducing()
        self._net.turn()


class GatewayCase(SynchronousTestCase):
    """Tests of a gateway in memory. `logged` are the events that it logged."""

    listen = "tcp:8000:interface=127.0.0.1"
    life: GatewayLife

    def setUp(self) -> None:
        self.net = Net()
        self.logged: list[dict[str, Any]] = []

        @provider(ILogObserver)
        def hear(event: dict[str, Any]) -> None:
            self.logged.append(event)

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def start(self, *roles: Role, path: Path = Path("models.yaml"), **settings: Any) -> GatewayLife:
        """A gateway with these roles, once its backends were checked."""
        named = {role.name: role for role in roles}
        told = GatewaySettings(roles=named, **settings)
        self.life, self.reload = build(self.net, told, path, [Listener(self.listen)])
        self.addCleanup(self.life.hurry)  # what is under way would end in some later test
        self.life.startService()
        self.net.turn()
        self.net.spend(2)
        return self.life

    def mesh(self, count: int = 1, **more: Any) -> list[Server]:
        """A started gateway whose role `coder` asks so many servers in the order given."""
        servers = [self.net.server() for _ in range(count)]
        self.start(role(*servers, **more))
        return servers

    def client(self) -> Client:
        return Client(self.net, self.net.tcpServers[0][1])

    def ask(self, path: str = CHAT, headers: Mapping[str, str] = raw.NONE, **more: Any) -> Client:
        """A chat through the gateway, under way; `more` are members of its body."""
        body = {"model": "coder", "messages": HELLO, **more}
        return self.client().send("POST", path, body, headers)

    def stream(self, **more: Any) -> Client:
        return self.ask(stream=True, **more)

    def get(self, path: str, method: str = "GET", **headers: str) -> raw.Answer:
        return self.client().send(method, path, None, headers).answer

    def post(self, path: str, body: object, **headers: str) -> raw.Answer:
        return self.client().send("POST", path, body, headers).answer

    def turn(self, seconds: float = 0.0) -> None:
        self.net.turn(seconds)

    def ready(self, name: str = "coder", **headers: str) -> tuple[int, int]:
        """How many of a role's backends are ready, and how many there are."""
        found = self.get("/ready", **headers).json["roles"].get(name, {"ready": 0, "total": 0})
        return found["ready"], found["total"]

    def record(self, client: Client) -> Any:
        """What the gateway remembers of a request."""
        return self.get(f"/v1/requests/{client.answer.headers['x-request-id']}").json

    def lines(self) -> list[dict[str, Any]]:
        """The log lines of requests that are over."""
        return [event for event in self.logged if "rolemesh.end" in event]

    def assert_refused(self, answer: raw.Answer, status: int, code: str) -> dict[str, Any]:
        """An error of the table in OpenAI's shape; its `error` is returned."""
        self.assertEqual(answer.status, status, answer.data)
        error: dict[str, Any] = answer.json["error"]
        self.assertEqual(error["code"], code, error)
        self.assertLessEqual({"message", "type", "param", "code"}, set(error))
        self.assertIn("x-request-id", answer.headers)
        self.assertIn(answer.headers["x-should-retry"], ("true", "false"))
        self.assertNotIn(b"127.0.0.1", answer.data)
        return error

    def assert_broken_off(self, answer: raw.Answer, code: str) -> None:
        """A stream that ends with that error, and not as a whole one ends."""
        self.assertEqual(answer.events[-1]["error"]["code"], code)
        self.assertFalse(answer.finished)
        self.assertNotIn(b"[DONE]", answer.data)
        self.assertFalse(answer.reset)


def role(*servers: Server, name: str = "coder", slots: int | None = None, **more: Any) -> Role:
    """A role over servers, the first first."""
    use = tuple(Target(url=server.url, slots=slots) for server in servers)
    return Role(name, **{"use": use, "policy": Policy.FIRST, **more})


def piece(word: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    """One event of a streamed chat."""
    choice = {"index": 0, "delta": {"content": word} if word else {}, "finish_reason": finish}
    return {"id": "chatcmpl-1", "created": 1, "model": "m", "choices": [choice], **more}


def whole(text: str, **more: Any) -> dict[str, Any]:
    """The body of a chat that is answered as a whole."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], **more}
