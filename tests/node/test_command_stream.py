"""The promises of `rolemesh.node.command_stream`: rows A23 to A26 among them."""

from typing import Any

from twisted.internet.defer import Deferred

from rolemesh.core.sse import KEEP_ALIVE
from rolemesh.node.command_stream import SILENCE
from tests.node.stream_case import Stream, StreamCase


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
