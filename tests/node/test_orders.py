"""The promises of `rolemesh.node.orders`: row A40 among them."""

import json
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError

from rolemesh.core.commands import LONGEST_COMMAND, Command, Kind, Result
from rolemesh.core.sse import event
from rolemesh.node.orders import BEAT, LOOK_EVERY
from tests.node.stream_case import PATH, StreamCase


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

    def test_behind_a_mark(self) -> None:
        """What was told before is not told again, and each part tells where the log is."""
        self.caller.more = True
        self.start().order("c1", "logs", follow=True, after="life:1:sum")
        self.operator.log.lines, self.operator.log.mark = ["new"], "life:2:sum"
        self.clock.pump([LOOK_EVERY] * 2)
        parts = [(result.lines, result.at) for _, result in self.caller.results]
        self.assertEqual(parts[0], ((), "life:1:sum"))
        self.assertIn((("new",), "life:2:sum"), parts)

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
