"""A gateway's stream and its answers, in memory: the node's end is real."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from rolemesh.core.commands import Command, Result, read_result
from rolemesh.core.sse import event
from rolemesh.node.calls import Answer, Caller
from rolemesh.node.command_stream import CommandStream
from rolemesh.node.orders import Orders
from rolemesh.tls.client import Untrusted

PATH = "http://gw:8000/v1/nodes/box2"


class Wire(StringTransport):
    """The node's end of a stream."""

    def __init__(self) -> None:
        super().__init__()
        self.hung_up = False

    def loseConnection(self) -> None:
        self.hung_up = True


class Stream:
    """A gateway's answer to the request for commands."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.wire = Wire()
        self.protocol: Any = None

    def deliverBody(self, protocol: Any) -> None:
        self.protocol = protocol
        protocol.makeConnection(self.wire)
        if self.wire.hung_up:
            self.end()

    def say(self, data: bytes) -> None:
        self.protocol.dataReceived(data)

    def order(self, id: str, kind: str = "restart", **more: Any) -> None:
        told = {"id": id, "kind": kind, "backend": "gpu0", **more}
        self.say(event(json.dumps(told).encode()))

    def end(self) -> None:
        self.protocol.connectionLost(Failure(ResponseDone()))


class FakeAgent:
    """Opens a stream with the next of `codes`; None refuses the connection, 0 is not trusted."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []
        self.streams: list[Stream] = []
        self.asked: list[tuple[str, Headers]] = []

    def request(self, method: bytes, url: bytes, headers: Headers, _: object) -> Deferred[Any]:
        self.asked.append((f"{method.decode()} {url.decode()}", headers))
        code = self.codes.pop(0) if self.codes else 200
        answered: Deferred[Any] = Deferred()
        if code is None:
            answered.errback(Failure(ConnectionRefusedError()))
        elif code == 0:
            answered.errback(Failure(Untrusted("its certificate is not for gw")))
        else:
            self.streams.append(Stream(code))
            answered.callback(self.streams[-1])
        return answered


class FakeCaller(Caller):
    """Takes results; `more` is its answer, `statuses` come first, None is a lost connection."""

    def __init__(self) -> None:
        self.results: list[tuple[str, Result]] = []
        self.statuses: list[int | None] = []
        self.more = False

    async def call(self, method: str, url: str, **details: Any) -> Answer:
        assert (method, details["bearer"]) == ("POST", "rmn_t")
        self.results.append((url.removeprefix(f"{PATH}/commands/"), read_result(details["body"])))
        status = self.statuses.pop(0) if self.statuses else 200
        if status is None:
            raise ConnectionRefusedError()
        return Answer(status, json.dumps({"more": self.more}).encode())


class FakeTail:
    """A log of the test's."""

    def __init__(self) -> None:
        self.lines: list[str] = ["old"]
        self.mark = "life:1:sum"

    def last(self, count: int, after: str = "") -> tuple[str, ...]:
        lines, self.lines = self.lines[-count:], []
        return tuple(lines) if after != self.mark else ()

    def news(self) -> tuple[str, ...]:
        lines, self.lines = self.lines, []
        return tuple(lines)


class FakeOperator:
    """Notes what it is told to do."""

    def __init__(self) -> None:
        self.done: list[Command] = []
        self.log = FakeTail()
        self.hold: Deferred[None] | None = None

    async def do(self, command: Command) -> Result:
        self.done.append(command)
        if self.hold is not None:
            await self.hold
        return Result(done=command.backend == "gpu0", message=f"{command.id} done")

    def tail(self, backend: str) -> FakeTail | None:
        return self.log if backend == "gpu0" else None


class StreamCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.agent, self.caller = Clock(), FakeAgent(), FakeCaller()
        self.operator = FakeOperator()
        agent: Any = self.agent
        operator: Any = self.operator
        orders = Orders(PATH, "rmn_t", self.caller, self.clock, operator, lambda: 0.0)
        self.commands = CommandStream(PATH, "one", "rmn_t", agent, self.clock, orders, lambda: 0.0)
        self.events = self.enterContext(capturedLogs())

    def start(self) -> Stream:
        self.commands.startService()
        self.addCleanup(self.commands.stopService)
        return self.stream

    @property
    def stream(self) -> Stream:
        return self.agent.streams[-1]

    @property
    def did(self) -> list[str]:
        return [command.id for command in self.operator.done]

    @property
    def answered(self) -> list[str]:
        return [id for id, _ in self.caller.results]
