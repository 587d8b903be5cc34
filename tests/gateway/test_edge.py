"""Tests for rolemesh.gateway.edge, byte for byte and in memory."""

import json

from twisted.python.failure import Failure

from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge import LINGER, EdgeChannel
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.edge_site import Limits
from tests.gateway.edge_case import GET, POST, EdgeTestCase, Later, answers, single_bytes
from tests.gateway.http_corpus import BAD, GOOD


class CorpusTests(EdgeTestCase):
    """The answers do not depend on how the bytes are cut."""

    def assert_refused(self, name: str, code: str, raw: bytes) -> None:
        whole = self.one_answer(raw)
        self.assertEqual(code, whole.code, name)
        _, wire = self.send(single_bytes(raw))
        self.assertEqual([whole], list(answers(wire.value())), name)
        self.assertTrue(wire.half_closed, name)

    def test_P16_bad_requests(self) -> None:
        """Each is refused with one JSON error, whole and byte by byte, and never runs."""
        for name, (code, raw) in BAD.items():
            self.assert_refused(name, code, raw)
        self.assertEqual(0, self.echo.asked)

    def test_P16_bad_requests_end_a_connection_that_was_good(self) -> None:
        """A bad request behind a good one is refused after the good one's answer."""
        for name, (code, raw) in BAD.items():
            _, wire = self.send([GET + raw])
            first, second = answers(wire.value())
            self.assertEqual((200, code), (first.status, second.code), name)

    def test_P16_good_requests(self) -> None:
        """Each is answered, the same whole and byte by byte."""
        for name, raw in GOOD.items():
            whole = self.one_answer(raw)
            self.assertEqual(200, whole.status, name)
            self.assertEqual([whole], list(answers(self.send(single_bytes(raw))[1].value())), name)

    def test_C19_pipelined_good_requests(self) -> None:
        """All of them on one connection are answered in order, in one write or in single bytes."""
        lasting = [raw for raw in GOOD.values() if b"HTTP/1.1" in raw and b"close" not in raw]
        alone = [self.one_answer(raw) for raw in lasting]
        for pieces in ([b"".join(lasting)], lasting, single_bytes(b"".join(lasting))):
            self.assertEqual(alone, list(answers(self.send(pieces)[1].value())))


class RefusalTests(EdgeTestCase):
    def test_C16_refusal_is_openai_shaped_and_complete(self) -> None:
        """A parser's refusal has the error body and all the headers that clients act on."""
        _, wire = self.send([POST + b"Content-Length: +4\r\n\r\n"])
        (answer,) = answers(wire.value())
        self.assertTrue(wire.value().startswith(b"HTTP/1.1 400 Bad Request\r\n"))
        self.assertEqual(
            {
                b"content-type": b"application/json",
                b"content-length": b"%d" % len(answer.body),
                b"connection": b"close",
                b"x-request-id": b"req_0",
                b"x-content-type-options": b"nosniff",
                b"cache-control": b"no-store",
                b"x-should-retry": b"false",
            },
            answer.headers,
        )
        error = json.loads(answer.body)["error"]
        self.assertEqual({"message", "type", "param", "code"}, set(error))
        self.assertEqual([("bad_request", "req_0", "192.0.2.1")], self.refused)

    def test_C16_anthropic_clients_get_their_shape(self) -> None:
        """Where the path is known, the refusal has the shape of that API."""
        raw = POST.replace(b"/v1/chat/completions", b"/v1/messages")
        answer = self.one_answer(raw + b"Content-Length: 9000000\r\n\r\n")
        self.assertEqual("error", json.loads(answer.body)["type"])

    def test_C16_nothing_is_read_after_a_refusal(self) -> None:
        """What a refused client goes on to send is neither run nor answered."""
        channel, wire = self.send([b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"])
        said = wire.value()
        channel.dataReceived(GET)
        self.assertEqual((said, 0), (wire.value(), self.echo.asked))

    def test_C16_refused_client_is_given_time_to_read(self) -> None:
        """The server's side is closed, the client's is read on, and after a while reset."""
        channel, wire = self.send([b"nonsense\r\n\r\n"])
        self.assertTrue(wire.half_closed)
        self.assertEqual("producing", wire.producerState)
        self.clock.advance(LINGER - 0.1)
        self.assertFalse(wire.aborted)
        self.clock.advance(0.1)
        self.assertTrue(wire.aborted)
        self.leave(channel)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_C8_screened_before_the_body(self) -> None:
        """A screen's refusal is the answer, with no 100 Continue before it and no body read."""

        def screen(request: EdgeRequest) -> None:
            if request.path == b"/v1/chat/completions":
                raise Refusal("invalid_api_key", "no key")

        self.build(self.echo, screen=screen)
        _, wire = self.send([POST + b"Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"])
        (answer,) = answers(wire.value())
        self.assertEqual((401, b"Bearer"), (answer.status, answer.headers[b"www-authenticate"]))
        self.assertNotIn(b"100 Continue", wire.value())
        self.assertEqual(200, self.one_answer(GET).status)


class DeadlineTests(EdgeTestCase):
    def drip(self, channel: EdgeChannel, seconds: int) -> None:
        for _ in range(seconds):
            channel.dataReceived(b"a")
            self.clock.advance(1.0)

    def test_C4_slow_head(self) -> None:
        """A head at a byte a second is cut off with 408, counted from the connection on."""
        channel, wire = self.connect()
        self.clock.advance(4.0)
        channel.dataReceived(b"GET /")
        self.drip(channel, 5)
        self.assertEqual(b"", wire.value())
        self.drip(channel, 1)
        (answer,) = answers(wire.value())
        self.assertEqual((408, "request_timeout"), (answer.status, answer.code))
        self.assertTrue(wire.half_closed)

    def test_C4_slow_head_on_a_kept_connection(self) -> None:
        """A later head has its own deadline, from its first byte."""
        channel, wire = self.send([GET])
        self.clock.advance(60.0)
        wire.clear()
        channel.dataReceived(b"GET /")
        self.drip(channel, 9)
        self.assertEqual(b"", wire.value())
        self.drip(channel, 1)
        self.assertEqual([408], [a.status for a in answers(wire.value())])

    def test_C4_silent_connection_is_closed_without_a_word(self) -> None:
        """Who connects and says nothing is not answered, only closed."""
        _, wire = self.connect()
        self.clock.advance(10.0)
        self.assertEqual((b"", True), (wire.value(), wire.half_closed))

    def test_C5_slow_body(self) -> None:
        """A body that drips is cut off with 408 at its deadline, and its request never runs."""
        for framing in (
            b"Content-Length: 500\r\n\r\n",
            b"Transfer-Encoding: chunked\r\n\r\n1ff\r\n",
        ):
            channel, wire = self.send([POST + framing])
            self.drip(channel, 29)
            self.assertEqual(b"", wire.value())
            self.drip(channel, 1)
            self.assertEqual([408], [a.status for a in answers(wire.value())])
        self.assertEqual(0, self.echo.asked)

    def test_C6_idle_connection_is_closed(self) -> None:
        """A kept connection without a request is closed after the idle time."""
        _, wire = self.send([GET])
        self.clock.pump([1.0] * 74)
        self.assertFalse(wire.half_closed)
        self.clock.advance(1.0)
        self.assertTrue(wire.half_closed)
        self.assertEqual(1, len(list(answers(wire.value()))))

    def test_no_deadline_while_an_answer_is_made(self) -> None:
        """A request that is being answered may take an hour, and leaves no timer."""
        self.build(later := Later())
        channel, wire = self.send([POST + b"Content-Length: 4\r\n\r\n", b"body"])
        self.clock.pump([60.0] * 60)
        later.requests[0].finish()
        self.assertEqual((200, False), (next(answers(wire.value())).status, wire.half_closed))
        self.leave(channel)
        self.assertEqual([], self.clock.getDelayedCalls())


class BodyTests(EdgeTestCase):
    limits = Limits(body_bytes=1000)

    def test_C7_declared_body_over_the_limit(self) -> None:
        """It is refused by its head alone, before 100 Continue; the limit itself passes."""
        self.build(self.echo, self.limits)
        raw = POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"
        _, wire = self.send([raw % 1001])
        self.assertNotIn(b"100 Continue", wire.value())
        self.assertEqual([413], [a.status for a in answers(wire.value())])
        _, wire = self.send([raw % 1000, b"a" * 1000])
        self.assertTrue(wire.value().startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200"))

    def test_C7_chunked_body_over_the_limit(self) -> None:
        """It is refused where it passes the limit, even with its end at hand; nothing runs."""
        self.build(self.echo, self.limits)
        chunk = b"1f4\r\n" + b"a" * 500 + b"\r\n"
        raw = POST + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2
        self.assertEqual(200, self.one_answer(raw + b"0\r\n\r\n").status)
        self.assertEqual(413, self.one_answer(raw + b"1\r\na\r\n0\r\n\r\n").status)
        self.assertEqual(1, self.echo.asked)

    def test_bodies_stay_in_memory(self) -> None:
        """Neither a large nor a chunked body goes through a file."""
        self.build(later := Later())
        self.send([POST + b"Content-Length: 200000\r\n\r\n" + b"a" * 200000])
        self.send([POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
        self.assertEqual([200000, 0], [len(r.content.getvalue()) for r in later.requests])

    def test_forms_are_not_parsed(self) -> None:
        """A form's body is left to the resource, and is not turned into arguments."""
        self.build(later := Later())
        form = b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 3\r\n\r\na=b"
        self.send([POST + form])
        self.assertEqual(({}, b"a=b"), (later.requests[0].args, later.requests[0].content.read()))


class ConnectionTests(EdgeTestCase):
    def test_C19_one_at_a_time_and_in_order(self) -> None:
        """A request that comes early waits until the one before it is answered."""
        self.build(later := Later())
        _, wire = self.send([GET + GET.replace(b"/a", b"/b"), GET.replace(b"/a", b"/c")])
        for path in (b"/a", b"/b", b"/c"):
            (request,) = later.requests
            self.assertEqual(path, request.path)
            later.requests.clear()
            request.setHeader(b"content-length", b"2")
            request.write(path)
            request.finish()
        self.assertEqual([b"/a", b"/b", b"/c"], [a.body for a in answers(wire.value())])

    def test_C28_second_request_while_a_stream_runs(self) -> None:
        """It waits, and nothing of its answer gets into the stream."""
        self.build(later := Later())
        channel, wire = self.send([GET])
        later.requests[0].write(b"one")
        channel.dataReceived(GET)
        later.requests[0].write(b"two")
        self.assertEqual(1, len(later.requests))
        self.assertTrue(wire.value().endswith(b"3\r\none\r\n3\r\ntwo\r\n"))
        later.requests[0].finish()
        self.assertEqual(2, len(later.requests))

    def test_C19_too_much_sent_ahead(self) -> None:
        """Reading never stops, so that a leaver is seen; the answer stands, then all is closed."""
        self.build(later := Later())
        channel, wire = self.send([GET])
        for _ in range(100):
            channel.dataReceived(GET * 10)
        gone: list[Failure] = []
        later.requests[0].notifyFinish().addErrback(gone.append)
        self.assertEqual("producing", wire.producerState)
        self.assertLessEqual(sum(map(len, channel._dataBuffer)), 16384)
        later.requests[0].write(b"whole")
        later.requests[0].finish()
        self.assertTrue(wire.value().endswith(b"5\r\nwhole\r\n0\r\n\r\n"))
        self.assertIn(b"\r\nConnection: close\r\n", wire.value())
        self.assertEqual((True, 1), (wire.half_closed, len(later.requests)))

    def test_C19_requests_of_one_connection(self) -> None:
        """The last one that a connection may have is answered with close, and closed."""
        self.build(self.echo, Limits(requests_per_connection=3))
        _, wire = self.send([GET * 5])
        said = [a.headers.get(b"connection") for a in answers(wire.value())]
        self.assertEqual([None, None, b"close"], said)
        self.assertTrue(wire.half_closed)

    def test_whole_answers_have_time_to_be_read(self) -> None:
        """A client that closes after its answer may take longer over it than over a refusal."""
        _, wire = self.send([GET.replace(b"Host", b"Connection: close\r\nHost")])
        self.assertTrue(wire.half_closed)
        self.clock.advance(LINGER + 1.0)
        self.assertFalse(wire.aborted)
        self.clock.advance(75.0)
        self.assertTrue(wire.aborted)

    def test_nothing_after_close_is_read(self) -> None:
        """What a client sends behind its own close is dropped, however much it is."""
        _, wire = self.send([GET.replace(b"Host", b"Connection: close\r\nHost") + GET * 1000])
        self.assertEqual([200], [a.status for a in answers(wire.value())])

    def test_client_that_read_too_slowly_is_heard_out(self) -> None:
        """A transport that was full is let go and read on, else it would never close."""
        channel, wire = self.send([GET])
        channel.pauseProducing()
        self.assertEqual("paused", wire.producerState)
        self.clock.advance(75.0)
        self.assertEqual(("producing", None), (wire.producerState, wire.producer))
