"""Tests for rolemesh.gateway.edge_request."""

from typing import Any

from klein import Klein
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http, server
from twisted.web.resource import Resource

from rolemesh.gateway.edge import LINGER, EdgeChannel
from rolemesh.gateway.edge_request import EdgeRequest, end_unfinished
from tests.gateway.edge_case import GET, POST, EdgeTestCase, Later, Wire


class RequestTests(EdgeTestCase):
    def answered_id(self, field: bytes) -> bytes:
        return self.one_answer(GET.replace(b"\r\n\r\n", field + b"\r\n\r\n")).headers[
            b"x-request-id"
        ]

    def test_C15_sane_id_is_taken_over(self) -> None:
        """A client's own id names the request, in the answer too."""
        self.assertEqual(b"a.B-9_", self.answered_id(b"\r\nX-Request-ID: a.B-9_"))
        self.assertEqual(b"a" * 64, self.answered_id(b"\r\nX-Request-ID: " + b"a" * 64))

    def test_C15_other_ids_are_replaced(self) -> None:
        """Ids that are missing, repeated, long or strange give way to new ones."""
        for strange in (
            b"",
            b"\r\nX-Request-ID:",
            b"\r\nX-Request-ID: " + b"a" * 65,
            b"\r\nX-Request-ID: a b",
            b"\r\nX-Request-ID: {a}",
            b"\r\nX-Request-ID: a\r\nX-Request-ID: a",
        ):
            self.assertTrue(self.answered_id(strange).startswith(b"req_"), strange)

    def test_C15_late_refusal_carries_the_id_of_its_request(self) -> None:
        """A refusal after the head names the request as its client did."""
        raw = POST + b"X-Request-ID: mine\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        self.assertEqual(b"mine", self.one_answer(raw).headers[b"x-request-id"])

    def test_answers_have_no_banner(self) -> None:
        """No answer says what serves it, and none is sniffed for a type that it does not name."""
        headers = self.one_answer(GET).headers
        self.assertNotIn(b"server", headers)
        self.assertNotIn(b"content-type", headers)
        self.assertEqual(b"nosniff", headers[b"x-content-type-options"])

    def test_an_unhandled_failure_is_json(self) -> None:
        """A resource that raises is answered by internal_error, with nothing of the failure."""

        class Broken(Resource):
            isLeaf = True

            def render(self, _: EdgeRequest) -> bytes:
                raise ValueError("SECRET")

        self.build(Broken())
        answer = self.one_answer(GET)
        self.assertEqual((500, "internal_error"), (answer.status, answer.code))
        self.assertNotIn(b"SECRET", answer.body)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))


class EndUnfinishedTests(EdgeTestCase):
    EVENT = b'data: {"error":{}}\n\n'

    def begin(self, raw: bytes = GET, **headers: bytes) -> tuple[EdgeChannel, Wire, EdgeRequest]:
        self.build(later := Later())
        channel, wire = self.send([raw])
        (request,) = later.requests
        for name, value in headers.items():
            request.setHeader(name.replace("_", "-"), value)
        request.write(b"data: 1\n\n")
        return channel, wire, request

    def test_event_then_no_last_chunk(self) -> None:
        """The event is the last that the client gets, whatever is written or finished later."""
        _, wire, request = self.begin()
        end_unfinished(request, self.EVENT)
        request.write(b"data: [DONE]\n\n")
        request.finish()
        self.assertTrue(wire.value().endswith(b"14\r\n" + self.EVENT + b"\r\n"))
        self.assertEqual((True, False), (wire.half_closed, wire.aborted))

    def test_handler_of_klein_may_return(self) -> None:
        """Klein finishes what its handlers return, and that does not end the answer politely."""
        app = Klein()

        @app.route("/a")
        async def handle(request: EdgeRequest) -> bytes:
            request.write(b"one")
            end_unfinished(request, self.EVENT)
            return b"two"

        self.build(app.resource())
        channel, wire = self.send([GET])
        self.assertTrue(wire.value().endswith(self.EVENT + b"\r\n"))
        self.leave(channel)

    def test_failure_after_the_first_byte(self) -> None:
        """An unhandled failure breaks a begun answer off instead of adding to it."""
        app = Klein()

        @app.route("/a")
        def handle(request: EdgeRequest) -> bytes:
            request.write(b"one")
            raise ValueError

        self.build(app.resource())
        _, wire = self.send([GET])
        self.assertTrue(wire.value().endswith(b"3\r\none\r\n"))
        self.assertTrue(wire.half_closed)
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_reset_when_it_cannot_be_flushed(self) -> None:
        """A client that takes nothing has a few seconds, then the connection is reset."""
        _, wire, request = self.begin()
        end_unfinished(request, self.EVENT)
        self.clock.advance(LINGER)
        self.assertTrue(wire.aborted)

    def test_producer_is_let_go(self) -> None:
        """Whoever fed the answer is no longer asked to."""
        channel, _, request = self.begin()
        request.registerProducer(StringTransport(), True)
        end_unfinished(request, self.EVENT)
        self.assertIsNone(request.producer)
        channel.resumeProducing()

    def test_short_of_its_length(self) -> None:
        """An answer with a length is closed short of it."""
        _, wire, request = self.begin(content_length=b"100")
        end_unfinished(request)
        self.assertEqual((True, False), (wire.half_closed, wire.aborted))

    def test_http_1_0_with_an_event(self) -> None:
        """The event says that the answer broke, and must arrive: no reset."""
        _, wire, request = self.begin(b"GET / HTTP/1.0\r\n\r\n")
        end_unfinished(request, self.EVENT)
        self.assertTrue(wire.value().endswith(self.EVENT))
        self.assertEqual((True, False), (wire.half_closed, wire.aborted))

    def test_http_1_0_without_an_event(self) -> None:
        """Only a reset can tell a body that ends with its connection from a whole one."""
        _, wire, request = self.begin(b"GET / HTTP/1.0\r\n\r\n")
        end_unfinished(request)
        self.assertTrue(wire.aborted)

    def test_client_that_has_gone(self) -> None:
        """Nothing is left to break off when the client has gone, or has its whole answer."""
        channel, _, request = self.begin()
        request.notifyFinish().addErrback(lambda _: None)
        self.leave(channel)
        end_unfinished(request, self.EVENT)
        _, wire, request = self.begin()
        request.finish()
        said = wire.value()
        end_unfinished(request, self.EVENT)
        self.assertEqual((said, False), (wire.value(), wire.half_closed))


class PlainSiteTests(SynchronousTestCase):
    def test_end_unfinished_on_twisteds_own_channel(self) -> None:
        """Where a request comes by an ordinary Site, as in tests in memory, it is closed too."""
        site: Any = server.Site(later := Later(), reactor=Clock())
        site.protocol = http.HTTPChannel
        channel, wire = site.buildProtocol(None), StringTransport()
        channel.makeConnection(wire)
        channel.dataReceived(GET)
        later.requests[0].write(b"one")
        end_unfinished(later.requests[0])
        later.requests[0].finish()
        self.assertTrue(wire.value().endswith(b"3\r\none\r\n"))
        self.assertTrue(wire.disconnecting)
