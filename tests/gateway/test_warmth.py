"""The promises of `rolemesh.gateway.warmth`: a streaming client that waits is kept warm."""

from rolemesh.core.model import QueueLimits, Timeouts
from tests.doubles import wire
from tests.gateway.memory import GatewayCase, role, whole

COMMENT = b": keep-alive\n\n"


class WarmthTests(GatewayCase):
    """Comments before the first event."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.net.server(), self.net.server()
        self.start(role(self.a, self.b, timeouts=Timeouts(first_byte=100)))

    def test_comments(self) -> None:
        """After a while the answer begins, and has a comment every so often."""
        client = self.stream()
        self.net.spend(14.5)
        self.assertFalse(client.answered)
        self.net.spend(31)
        self.assertEqual(client.answer.status, 200)
        self.assertEqual(client.answer.body, 3 * COMMENT)
        self.assertEqual(client.answer.headers["x-rolemesh-role"], "coder")

    def test_whole_answers(self) -> None:
        """A client that waits for a whole answer gets nothing before it."""
        client = self.ask()
        self.net.spend(60)
        self.assertFalse(client.answered)

    def test_in_peace(self) -> None:
        """A role may leave its clients in peace."""
        GatewayCase.setUp(self)
        self.start(role(self.net.server(), queue=QueueLimits(keep_warm=None)))
        client = self.stream()
        self.net.spend(60)
        self.assertFalse(client.answered)

    def test_answer_follows(self) -> None:
        """The stream then goes on as any other, with no comment more."""
        client = self.stream()
        self.net.spend(16)
        self.a.work[0].head()
        self.a.work[0].text("one", finish="stop")
        self.net.spend(20)
        self.a.work[0].done()
        self.turn()
        self.assertEqual(client.answer.body.count(COMMENT), 1)
        self.assertEqual(client.answer.text, "one")
        self.assertTrue(client.answer.finished)

    def test_P2_failover(self) -> None:
        """A comment is no part of an answer: another backend may still give it."""
        client = self.stream()
        self.net.spend(16)
        self.a.work[0].die()
        self.turn()
        self.b.work[0].head()
        self.b.work[0].text("two", finish="stop")
        self.b.work[0].done()
        self.turn()
        self.assertEqual(client.answer.text, "two")
        self.assertEqual([each for each in client.answer.events if "choices" not in each], [])

    def test_refused_in_the_stream(self) -> None:
        """What goes wrong from then on is told in the stream, which does not end as a whole one."""
        client = self.stream()
        self.net.spend(202)
        self.assert_broken_off(client.answer, "upstream_timeout")
        self.assertEqual(self.lines()[-1]["error.code"], "upstream_timeout")

    def test_backends_error_in_the_stream(self) -> None:
        """So is an error that the backend answers."""
        client = self.stream()
        self.net.spend(16)
        self.a.work[0].json(400, wire.error(400, "invalid_request_error", "no such thing"))
        self.turn()
        self.assert_broken_off(client.answer, "bad_request")
        self.assertEqual(client.answer.events[-1]["error"]["message"], "no such thing")

    def test_whole_answer_in_the_stream(self) -> None:
        """A whole answer is none to who waits for events: another backend is asked, and where
        none is left that is said."""
        client = self.stream()
        self.net.spend(16)
        for server in (self.a, self.b):
            server.work[0].json(200, whole("hi"))
            self.turn()
        self.assert_broken_off(client.answer, "upstream_error")

    def test_what_does_not_stream(self) -> None:
        """Where there are no events, a client that asks for a stream is kept waiting in peace."""
        client = self.ask("/v1/embeddings", input="hi", stream=True)
        self.net.spend(60)
        self.assertFalse(client.answered)

    def test_C1_leaves(self) -> None:
        """Nothing is said to a client that has left."""
        client = self.stream()
        self.net.spend(16)
        client.leave()
        said = len(client.answer.data)
        self.net.spend(31)
        self.assertEqual(len(client.answer.data), said)
        self.assertTrue(self.a.work[0].left)
