"""Commands from a gateway: on a Clock, against a gateway of words."""

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

from rolemesh.core.commands import LONGEST_COMMAND, Command, Kind, Result, read_result
from rolemesh.core.sse import KEEP_ALIVE, event
from rolemesh.node.calls import Answer, Caller
from rolemesh.node.command_stream import BEAT, LOOK_EVERY, SILENCE, CommandStream
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

    def last(self, count: int) -> tuple[str, ...]:
        lines, self.lines = self.lines[-count:], []
        return tuple(lines)

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
        self.commands = CommandStream(
            PATH, "one", "rmn_t", agent, self.caller, self.clock, operator, lambda: 0.0
        )
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


class OrderTests(StreamCase):
    """What is heard is done, once."""

    def test_heard_done_answered(self) -> None:
        """The stream is asked for by this agent with its token; an order on it is done, and its
        result told."""
        self.start().order("c1")
        ((asked, headers),) = self.agent.asked
        self.assertEqual(asked, f"GET {PATH}/commands?instance=one")
        self.assertEqual(headers.getRawHeaders("authorization"), ["Bearer rmn_t"])
        self.assertEqual(self.operator.done, [Command("c1", Kind.RESTART, "gpu0")])
        self.assertEqual(self.caller.results, [("c1", Result(done=True, message="c1 done"))])

    def test_twice(self) -> None:
        """An order that comes again is not done again: its result is told again."""
        self.start().order("c1")
        self.stream.end()
        self.clock.advance(1)
        self.stream.order("c1")
        self.assertEqual((self.did, self.answered), (["c1"], ["c1", "c1"]))

    def test_twice_while_it_is_done(self) -> None:
        """One that comes again while it is being done is answered when it is done."""
        hold: Deferred[None] = Deferred()
        self.operator.hold = hold
        self.start().order("c1")
        self.stream.order("c1")
        self.assertEqual((self.did, self.answered), (["c1"], []))
        hold.callback(None)
        self.assertEqual((self.did, self.answered), (["c1"], ["c1"]))

    def test_a_result_that_is_lost(self) -> None:
        """A result is told until the gateway has heard it."""
        self.caller.statuses = [None, 503]
        self.start().order("c1")
        self.clock.pump([1, 2])
        self.assertEqual((self.did, self.answered), (["c1"], ["c1"] * 3))
        self.clock.advance(600)
        self.assertEqual(len(self.answered), 3)

    def test_a_result_that_nobody_takes(self) -> None:
        """After six times it is left, until the gateway asks again."""
        self.caller.statuses = [None] * 6
        self.start().order("c1")
        self.clock.pump([30] * 20)
        self.assertEqual(len(self.answered), 6)
        self.stream.end()
        self.clock.advance(30)
        self.stream.order("c1")
        self.assertEqual((self.did, len(self.answered)), (["c1"], 7))

    def test_a_result_that_is_refused(self) -> None:
        """A gateway that refuses a result is not told it again."""
        self.caller.statuses = [403]
        self.start().order("c1")
        self.clock.advance(600)
        self.assertEqual(self.answered, ["c1"])

    def test_A40_what_is_no_command(self) -> None:
        """Other verbs, other shapes and what is no JSON are left out; the next one counts."""
        self.start()
        for data in (
            b"x",
            b"[]",
            b'{"id": "a", "kind": "run"}',
            b'{"id": "../a", "kind": "drain"}',
        ):
            self.stream.say(event(data))
        self.stream.order("c1")
        self.assertEqual(self.did, ["c1"])

    def test_A40_a_huge_event(self) -> None:
        """A gateway that never ends its line is hung up on, and asked again later."""
        self.start().say(b"data: " + b"x" * (LONGEST_COMMAND + 1))
        self.assertTrue(self.stream.wire.hung_up)
        self.stream.end()
        self.clock.advance(1)
        self.assertEqual(len(self.agent.streams), 2)

    def test_A40_very_many(self) -> None:
        """What is done at once has a limit."""
        self.operator.hold = Deferred()
        self.start()
        for number in range(100):
            self.stream.order(f"c{number}")
        self.assertEqual(len(self.did), 32)

    def test_stops(self) -> None:
        """An agent that stops hears no more, and leaves nothing behind."""
        self.caller.more = True
        stream = self.start()
        stream.order("c1", "logs", follow=True)
        self.commands.stopService()
        self.assertTrue(stream.wire.hung_up)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stops_while_it_connects(self) -> None:
        """So does one that stops before there is a stream; an Agent calls that another error."""
        connecting: Deferred[Any] = Deferred(
            lambda connecting: connecting.errback(ConnectionRefusedError())
        )
        self.patch(self.agent, "request", lambda *_: connecting)
        self.commands.startService()
        self.commands.stopService()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class ConnectionTests(StreamCase):
    """A stream that breaks or never begins."""

    def times(self, *codes: int | None, within: float) -> list[float]:
        """When it is asked again, after these answers."""
        self.agent.codes = list(codes)
        self.start()
        found, asked = [], 1
        while self.clock.seconds() < within:
            self.clock.advance(0.5)
            if len(self.agent.asked) > asked:
                asked = len(self.agent.asked)
                found.append(self.clock.seconds())
        return found

    def start(self) -> Stream:
        self.commands.startService()
        self.addCleanup(self.commands.stopService)
        return self.agent.streams[-1] if self.agent.streams else Stream(0)

    def test_A25_a_refused_token(self) -> None:
        """A gateway that refuses us is left in peace for a minute, and logged once."""
        self.assertEqual(self.times(401, 401, within=119), [60.0])
        told = [each for each in self.events if "no commands" in str(each["log_format"])]
        self.assertEqual([each["why"] for each in told], ["it answered 401"])

    def test_A26_a_wrong_certificate(self) -> None:
        """So is one that is not trusted, and the log has the reason, once."""
        self.assertEqual(self.times(0, 0, within=119), [60.0])
        told = [each for each in self.events if "no commands" in str(each["log_format"])]
        self.assertEqual([each["why"] for each in told], ["its certificate is not for gw"])

    def test_A23_away(self) -> None:
        """As often as it is told, at chance's least: after 0.6, 1.2, 2.4, 3, 3 … s, for ever."""
        found = self.times(*[None] * 8, within=21)
        self.assertEqual(found, [1, 2.5, 5, 8, 11, 14, 17, 20])

    def test_A24_unknown(self) -> None:
        """A gateway that does not know us yet is asked every two seconds."""
        self.assertEqual(self.times(410, 409, 410, within=7), [2, 4, 6])

    def test_silence(self) -> None:
        """A stream without a sign of life for half a minute is opened anew; comments are life."""
        self.start()
        self.clock.advance(SILENCE - 1)
        self.stream.say(KEEP_ALIVE)
        self.clock.advance(SILENCE - 1)
        self.assertFalse(self.stream.wire.hung_up)
        self.clock.advance(1)
        self.assertTrue(self.stream.wire.hung_up)
        self.stream.end()
        self.clock.advance(1)
        self.assertEqual(len(self.agent.streams), 2)

    def test_nobody_answers(self) -> None:
        """A gateway that takes the connection and says nothing is given up after five seconds."""
        never: Deferred[Any] = Deferred()
        self.patch(self.agent, "request", lambda *_: never)
        self.commands.startService()
        self.addCleanup(self.commands.stopService)
        self.clock.advance(5)
        self.assertEqual(self.commands._failures, 1)


class LogTests(StreamCase):
    """A log that is told in parts."""

    def parts(self) -> list[tuple[int, tuple[str, ...], bool]]:
        return [(result.part, result.lines, result.more) for _, result in self.caller.results]

    def test_once(self) -> None:
        """Without `follow` the last lines are the whole result."""
        self.caller.more = True
        self.start().order("c1", "logs", lines=5)
        self.clock.advance(60)
        self.assertEqual(self.parts(), [(0, ("old",), False)])

    def test_follow(self) -> None:
        """New lines are told within half a second, until nobody wants more."""
        self.caller.more = True
        self.start().order("c1", "logs", follow=True)
        self.operator.log.lines = ["a", "b"]
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(self.parts(), [(0, ("old",), True), (1, ("a", "b"), True)])
        self.caller.more = False
        self.operator.log.lines = ["c"]
        self.clock.pump([LOOK_EVERY] * 100)
        self.assertEqual(self.parts()[2:], [(2, ("c",), True)])

    def test_a_silent_log(self) -> None:
        """Of a log that says nothing an empty part asks now and then whether anybody listens."""
        self.caller.more = True
        self.start().order("c1", "logs", follow=True)
        self.clock.pump([LOOK_EVERY] * int(BEAT / LOOK_EVERY - 1))
        self.assertEqual(len(self.parts()), 1)
        self.caller.more = False
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(self.parts()[1], (1, (), True))
        self.clock.pump([LOOK_EVERY] * 100)
        self.assertEqual(len(self.parts()), 2)

    def test_followed_once(self) -> None:
        """One that comes again while it is followed changes nothing; after that it begins anew."""
        self.caller.more = True
        self.start().order("c1", "logs", follow=True)
        self.stream.order("c1", "logs", follow=True)
        self.assertEqual(len(self.parts()), 1)
        self.caller.more = False
        self.clock.advance(BEAT)
        self.stream.order("c1", "logs", follow=True)
        self.assertEqual([part for part, _, _ in self.parts()], [0, 1, 0])

    def test_no_such_server(self) -> None:
        """A log of what is not there is answered as any other order is."""
        told = {"id": "c1", "kind": "logs", "backend": "gpu9"}
        self.start().say(event(json.dumps(told).encode()))
        self.assertEqual(self.caller.results, [("c1", Result(done=False, message="c1 done"))])
