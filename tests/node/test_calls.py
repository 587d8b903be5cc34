"""Small HTTP calls: what they carry, and what they do not put up with."""

from typing import Any

from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from rolemesh.node.calls import Answer, Caller, TooLong


def body_of(request: Request) -> bytes:
    assert request.content is not None
    return request.content.read()


class Scripted(Resource):
    """Answers every path with one status and one body, or never."""

    isLeaf = True

    def __init__(self, status: int = 200, body: bytes = b"{}", silent: bool = False) -> None:
        super().__init__()
        self.status, self.body, self.silent = status, body, silent
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.left = 0
        self.headers: dict[bytes, bytes] = {}

    def render(self, request: Request) -> Any:
        self.requests.append(request)
        self.bodies.append(body_of(request))
        request.notifyFinish().addErrback(self._count_left)
        if self.silent:
            request.write(b"begun")
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        for name, told in {b"location": b"http://elsewhere/", **self.headers}.items():
            request.setHeader(name, told)
        return self.body

    def _count_left(self, _: object) -> None:
        self.left += 1


class CallerTests(SynchronousTestCase):
    def call(self, server: Scripted, method: str = "GET", **details: Any) -> Deferred[Answer]:
        self.clock = Clock()
        self.agent = RequestTraversalAgent(server)
        caller = Caller(self.agent, self.clock, 5.0)
        exchange = Deferred.fromCoroutine(caller.call(method, "http://x:1/props", **details))
        self.agent.flush()
        return exchange

    def test_the_answer_is_whole(self) -> None:
        """Status and body arrive; a redirect is an answer like any other."""
        answer = self.successResultOf(self.call(Scripted(302, b"moved")))
        self.assertEqual(answer, Answer(302, b"moved"))

    def test_when_to_come_again(self) -> None:
        """It is told in seconds, from either header; what is no number is nothing."""
        for name, told, wait in (
            (b"retry-after-ms", b"250", 0.25),
            (b"retry-after", b"3", 3.0),
            (b"retry-after", b"Sun, 06 Nov 2044 08:49:37 GMT", None),
            (b"retry-after", b"-5", None),
            (b"x-other", b"3", None),
        ):
            server = Scripted(429)
            server.headers = {name: told}
            self.assertEqual(self.successResultOf(self.call(server)).retry_after, wait)

    def test_key_and_body_are_sent(self) -> None:
        """A bearer goes into its header, a body goes with its type."""
        server = Scripted()
        self.successResultOf(self.call(server, "POST", bearer="k", body=b'{"a":1}'))
        (request,) = server.requests
        self.assertEqual(server.bodies, [b'{"a":1}'])
        self.assertEqual(request.getHeader("authorization"), "Bearer k")
        self.assertEqual(request.getHeader("content-type"), "application/json")

    def test_nothing_is_sent_that_was_not_said(self) -> None:
        """Without a key there is no authorization, and compressed answers are not asked for."""
        server = Scripted()
        self.successResultOf(self.call(server))
        self.assertFalse(server.requests[0].requestHeaders.hasHeader("authorization"))
        self.assertFalse(server.requests[0].requestHeaders.hasHeader("accept-encoding"))

    def test_A40_a_body_beyond_the_limit_is_not_read(self) -> None:
        """One byte too many ends the exchange."""
        self.successResultOf(self.call(Scripted(body=b"x" * 10), limit=10))
        self.failureResultOf(self.call(Scripted(body=b"x" * 11), limit=10), TooLong)

    def test_A40_an_answer_of_64_kib_is_long_enough(self) -> None:
        """Where nobody asks for more."""
        self.successResultOf(self.call(Scripted(body=b"x" * 65536)))
        self.failureResultOf(self.call(Scripted(body=b"x" * 65537)), TooLong)

    def test_a_body_that_does_not_end_is_left(self) -> None:
        """The limit on time holds beyond the headers, and the connection is closed."""
        server = Scripted(silent=True)
        exchange = self.call(server)
        self.clock.advance(4.9)
        self.assertNoResult(exchange)
        self.clock.advance(0.1)
        self.failureResultOf(exchange, TooLate)
        self.agent.flush()
        self.assertEqual(server.left, 1)

    def test_a_server_that_does_not_answer_is_left(self) -> None:
        """The same limit covers the connection, and a call may have a shorter one."""
        reactor = MemoryReactorClock()
        caller = Caller(Agent(reactor), reactor, 5.0)
        call = Deferred.fromCoroutine(caller.call("GET", "http://127.0.0.1:1/", timeout=2.0))
        reactor.advance(2)
        self.failureResultOf(call, TooLate)

    def test_a_cancel_is_a_cancel_in_every_phase(self) -> None:
        """While it connects and while it reads, the caller sees CancelledError and nothing else."""
        reactor = MemoryReactorClock()
        caller = Caller(Agent(reactor), reactor, 5.0)
        connecting = Deferred.fromCoroutine(caller.call("GET", "http://127.0.0.1:1/"))
        for call in (connecting, self.call(Scripted(silent=True)), self.call(Mute())):
            call.cancel()
            self.failureResultOf(call, CancelledError)


class Mute(Scripted):
    """Takes a request and says nothing."""

    def render(self, request: Request) -> Any:  # noqa: ARG002
        return NOT_DONE_YET
