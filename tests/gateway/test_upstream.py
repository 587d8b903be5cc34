"""The promises of `rolemesh.gateway.upstream`: what treq adds is gone, what comes is bounded."""

import gzip
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.iweb import IResponse

from rolemesh.core.attempts import Outcome
from rolemesh.core.model import Backend, BackendId
from rolemesh.gateway.connections import LONGEST_HEAD
from rolemesh.gateway.relay import never, receive
from rolemesh.gateway.upstream import TryFailed, Upstream
from tests.doubles import raw, wire
from tests.gateway.memory import Exchange, Net

BODY = '{"model": "coder",  "text": "caf\\u00e9 café"}'.encode()


class UpstreamCase(SynchronousTestCase):
    """One backend in memory, and requests to it."""

    def setUp(self) -> None:
        self.net = Net()
        self.upstream = Upstream(self.net)
        self.server = self.net.server()

    def send(
        self,
        key: str | None = None,
        headers: Mapping[str, str] = raw.NONE,
        *,
        llama_server: bool = True,
    ) -> Deferred[Any]:
        backend = Backend(
            BackendId("box2", "gpu0"), self.server.url, key=key, llama_server=llama_server
        )
        coroutine = self.upstream.send(backend, "POST", "/v1/x", BODY, headers, 2.0)
        sending = Deferred.fromCoroutine(coroutine)
        self.net.turn()
        return sending

    @property
    def exchange(self) -> Exchange:
        """The latest request that the backend got."""
        return self.server.work[-1]

    def header(self, name: str) -> str | None:
        return self.exchange.request.header(name)

    def response(self, sending: Deferred[Any]) -> IResponse:
        self.net.turn()
        response: IResponse = self.successResultOf(sending)
        return response

    def body(self, response: IResponse) -> bytes:
        held = receive(response, self.net, never, 1 << 20).begun
        self.net.turn()
        return self.successResultOf(held)

    def outcome(self, sending: Deferred[Any]) -> Outcome:
        self.net.turn()
        outcome: Outcome = self.failureResultOf(sending, TryFailed).value.outcome
        return outcome


class PlainTests(UpstreamCase):
    """What treq adds to a request, and a proxy must not have, is gone."""

    def test_no_gzip(self) -> None:
        """Only identity is asked for, whatever treq would have liked."""
        self.send()
        self.assertEqual(self.header("accept-encoding"), "identity")

    def test_B22_packed_answer(self) -> None:
        """An answer that is packed all the same is none, and nothing unpacks it."""
        for coding in ("gzip", "br", "GZIP, identity"):
            sending = self.send()
            packed = gzip.compress(b"0" * 100_000)
            self.exchange.json(200, packed, f"Content-Encoding: {coding}\r\n")
            self.assertIs(self.outcome(sending), Outcome.GARBLED)
            self.assertTrue(self.exchange.left)

    def test_empty_encoding(self) -> None:
        """An encoding that is named but empty, as llama-server's, is none."""
        sending = self.send()
        self.exchange.json(200, b"{}", "Content-Encoding: \r\n")
        self.assertEqual(self.body(self.response(sending)), b"{}")

    def test_no_cookies(self) -> None:
        """A cookie that a backend sets is kept for no request to come."""
        sending = self.send()
        self.exchange.json(200, {}, "Set-Cookie: session=1; Path=/\r\n")
        self.response(sending)
        self.send()
        self.assertIsNone(self.header("cookie"))

    def test_B21_no_redirects(self) -> None:
        """A redirect is an answer like any other, and its target is not asked."""
        for status in (301, 302, 303, 307, 308):
            sending = self.send()
            asked = len(self.server.work) + len(self.server.checks)
            self.exchange.json(status, {}, f"Location: {self.server.url}/other\r\n")
            self.assertEqual(self.response(sending).code, status)
            self.assertEqual(len(self.server.work) + len(self.server.checks), asked)

    def test_body_untouched(self) -> None:
        """The body goes as it is, with its length, and with the content type that it was given."""
        self.send(headers={"content-type": "application/json"})
        self.assertEqual(self.exchange.request.body, BODY)
        self.assertEqual(self.header("content-length"), str(len(BODY)))
        self.assertIsNone(self.header("transfer-encoding"))
        self.assertEqual(self.header("content-type"), "application/json")

    def test_no_names_of_ours(self) -> None:
        """Nothing is sent but what was asked for and what HTTP needs."""
        self.send(headers={"x-request-id": "r1"})
        names = {name for name, _ in self.exchange.request.headers}
        needed = {"host", "connection", "content-length", "accept-encoding"}
        self.assertEqual(names - needed, {"x-request-id"})

    def test_key(self) -> None:
        """A backend gets its own key, and no other header of that name."""
        self.send(key="secret")
        self.assertEqual(self.header("authorization"), "Bearer secret")
        self.send()
        self.assertIsNone(self.header("authorization"))

    def test_B5_fresh_connections(self) -> None:
        """Each request to a llama-server has a connection of its own, even if it would keep it."""
        for _ in range(2):
            sending = self.send()
            self.exchange.say(wire.json_answer(200, {}, wire.KEEP))
            self.body(self.response(sending))
        one, two = self.server.work
        self.assertIsNot(one.line, two.line)
        self.assertTrue(one.left)

    def test_B5_kept_connections(self) -> None:
        """Other servers are asked again over the connection that they keep."""
        for _ in range(2):
            sending = self.send(llama_server=False)
            self.exchange.say(wire.json_answer(200, {}, wire.KEEP))
            self.body(self.response(sending))
        one, two = self.server.work
        self.assertIs(one.line, two.line)

    def test_B5_a_kept_one_that_is_gone(self) -> None:
        """What fails on a kept connection before a byte came is sent once more, over a new one."""
        sending = self.send(llama_server=False)
        self.exchange.say(wire.json_answer(200, {}, wire.KEEP))
        self.body(self.response(sending))
        sending = self.send(llama_server=False)
        self.exchange.die()
        self.net.turn()
        self.assertEqual(len(self.server.work), 3)
        self.exchange.die()
        self.assertIs(self.outcome(sending), Outcome.DIED)
        self.assertEqual(len(self.server.work), 3)

    def test_B5_a_kept_one_that_dies_in_its_answer(self) -> None:
        """But what fails there after a byte is a death like any other."""
        sending = self.send(llama_server=False)
        self.exchange.say(wire.json_answer(200, {}, wire.KEEP))
        self.body(self.response(sending))
        sending = self.send(llama_server=False)
        self.exchange.say(b"HTTP/1.1 200 OK\r\nContent-")
        self.exchange.die()
        self.assertIs(self.outcome(sending), Outcome.DIED)
        self.assertEqual(len(self.server.work), 2)


class FailureTests(UpstreamCase):
    """What comes of a try that brings no answer."""

    def test_B1_refused(self) -> None:
        """A closed port is a refused connection."""
        self.server.mood = "refuse"
        sending = self.send()
        self.net.turn(0.5)
        self.assertIs(self.outcome(sending), Outcome.REFUSED)

    def test_B1_refused_at_once(self) -> None:
        """An address that refuses is known to refuse at once: another backend may try."""
        self.server.mood = "refuse"
        self.assertIs(self.outcome(self.send()), Outcome.REFUSED)

    def test_B2_black_hole(self) -> None:
        """A connect that nobody answers ends at its timeout, and not before."""
        self.server.mood = "silent"
        sending = self.send()
        self.net.turn(1.9)
        self.assertNoResult(sending)
        self.net.turn(0.2)
        self.assertIs(self.outcome(sending), Outcome.CONNECT_TIMEOUT)

    def test_B4_death(self) -> None:
        """A reset or an EOF before an answer is a death."""
        for end in (Exchange.die, Exchange.end):
            sending = self.send()
            end(self.exchange)
            self.assertIs(self.outcome(sending), Outcome.DIED)

    def test_B9_garbage(self) -> None:
        """What is no HTTP is garbled."""
        for said in (b"SSH-2.0-OpenSSH_9\r\n", b"hello\r\n\r\n"):
            sending = self.send()
            self.exchange.say(said)
            self.assertIs(self.outcome(sending), Outcome.GARBLED)

    def test_B10_many_headers(self) -> None:
        """A head without end is cut at its limit, and the rest is never read."""
        sending = self.send()
        self.exchange.say(b"HTTP/1.1 200 OK\r\n")
        sent = 0
        while not self.exchange.left and sent < 200_000:
            self.exchange.say(b"x-h: 1\r\n" * 100)
            sent += 100
        self.assertLessEqual(sent * 8, 2 * LONGEST_HEAD)
        self.assertTrue(self.exchange.left)
        self.outcome(sending)

    def test_B10_many_interim_answers(self) -> None:
        """So are interim answers without end."""
        sending = self.send()
        sent = 0
        while not self.exchange.left and sent < 20_000:
            self.exchange.say(b"HTTP/1.1 100 Continue\r\n\r\n" * 10)
            sent += 10
        self.assertLess(sent, 20_000)
        self.assertTrue(self.exchange.left)
        self.outcome(sending)

    def test_B10_limits_are_exact(self) -> None:
        """A hundred fields and ten interim answers are taken, one more of either is not."""
        ok, interim = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"
        for more in (0, 1):
            many = ok + b"x-h: 1\r\n" * (100 + more) + b"\r\n"
            for said in (many, interim * (10 + more) + ok, interim * (10 + more)):
                sending = self.send()
                self.exchange.say(said)
                self.assertEqual(self.exchange.left, bool(more), said[-40:])
                sending.cancel()
                sending.addErrback(lambda _: None)

    def test_B10_alike(self) -> None:
        """A head out of bounds is garbled, not a process that died of the request."""
        sending = self.send()
        self.exchange.say(b"HTTP/1.1 200 OK\r\n" + b"x-h: 1\r\n" * LONGEST_HEAD)
        self.assertIs(self.outcome(sending), Outcome.GARBLED)

    def whole(self, *cuts: int) -> int:
        """The length of a body of three times the head's limit, which comes cut there."""
        sending = self.send()
        said, start = wire.json_answer(200, b"1" * (3 * LONGEST_HEAD)), 0
        for cut in (*cuts, *range(max(cuts), len(said), LONGEST_HEAD), len(said)):
            self.exchange.say(said[start:cut])
            start = cut
        return len(self.body(self.response(sending)))

    def test_long_bodies_are_no_heads(self) -> None:
        """The limit is the head's: a body may be longer, also where both come in one piece."""
        self.assertEqual(self.whole(LONGEST_HEAD), 3 * LONGEST_HEAD)

    def test_head_in_two_pieces(self) -> None:
        """So it is where the rest of a head comes with as much of a body as one read takes."""
        self.assertEqual(self.whole(20, 20 + LONGEST_HEAD), 3 * LONGEST_HEAD)


class CancelTests(UpstreamCase):
    """P6: in each phase a cancel closes the connection, and is told as a cancel."""

    def test_P6_connecting(self) -> None:
        """While it connects."""
        self.server.mood = "silent"
        sending = self.send()
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.assertTrue(self.net.connectors[-1].stoppedConnecting)
        self.net.spend(3)

    def test_P6_waiting(self) -> None:
        """While it waits for an answer."""
        sending = self.send()
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.net.turn()
        self.assertTrue(self.exchange.left)

    def test_P6_in_the_head(self) -> None:
        """In the middle of a head."""
        sending = self.send()
        self.exchange.say(b"HTTP/1.1 200 OK\r\nx-h")
        sending.cancel()
        self.failureResultOf(sending, CancelledError)
        self.net.turn()
        self.assertTrue(self.exchange.left)
