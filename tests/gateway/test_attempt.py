"""The promises of `rolemesh.gateway.attempt`: rows B7, B19, B22, B25, B27 and B28 among them."""

from typing import Any

from rolemesh.core.model import Params, Target, Timeouts
from tests.doubles import wire
from tests.gateway.memory import Client, Exchange, GatewayCase, role, whole

MESSAGES = "/v1/messages"
USAGE = {"usage": {"completion_tokens": 2, "prompt_tokens": 5, "total_tokens": 7}}


class SendingTests(GatewayCase):
    """What a backend gets."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server()

    def test_members_as_they_came(self) -> None:
        """The members of a body go on as they were written, `model` apart, each of them once."""
        self.start(role(self.server))
        body = b'{"model":"x","n":1.50,"model":"coder", "t":"\\u00e9", "big":12345678901234567890}'
        self.client().send("POST", "/v1/embeddings", body)
        got = self.server.work[0].request.body
        self.assertIn(b'"n":1.50', got)
        self.assertIn(b'"t":"\\u00e9"', got)
        self.assertIn(b'"big":12345678901234567890', got)
        self.assertEqual(got.count(b'"model"'), 1)
        self.assertEqual(self.server.work[0].request.path, "/v1/embeddings")

    def test_model(self) -> None:
        """A backend gets its own model's name where one is known, else the client's word."""
        use = (Target(url=self.server.url, model="qwen"),)
        self.start(role(use=use))
        self.ask()
        self.assertEqual(self.server.work[0].request.json()["model"], "qwen")

    def test_stream_stays(self) -> None:
        """A request for a stream is one behind the gateway, too, as the client wrote it."""
        self.server.llama()
        self.start(role(self.server))
        self.stream()
        got = self.server.work[0].request.json()
        self.assertEqual(got["stream"], True)
        self.assertNotIn("stream_options", got)

    def test_params(self) -> None:
        """A role's params are filled in, overrule and take out."""
        params = Params({"temperature": 0.2, "top_p": 0.9}, {"seed": 7}, frozenset({"logit_bias"}))
        self.start(role(self.server, params=params))
        self.ask(temperature=1, seed=1, logit_bias={})
        got = self.server.work[0].request.json()
        self.assertEqual((got["temperature"], got["top_p"], got["seed"]), (1, 0.9, 7))
        self.assertNotIn("logit_bias", got)

    def test_headers(self) -> None:
        """Only harmless headers go on: no key, no cookie, nothing that is the connection's."""
        self.start(role(self.server))
        headers = {
            "Authorization": "Bearer rmk_secret",
            "X-Api-Key": "rmk_secret",
            "Cookie": "a=1",
            "X-Conversation-Id": "c",
            "X-Forwarded-For": "10.0.0.1",
            "Traceparent": "00-1-2-01",
            "Anthropic-Version": "2023-06-01",
            "X-Request-Id": "mine",
        }
        self.ask(headers=headers)
        got = dict(self.server.work[0].request.headers)
        passed = {"traceparent", "anthropic-version", "x-request-id", "content-type"}
        http = {"host", "content-length", "accept-encoding"}
        self.assertEqual(set(got) - {"connection"}, passed | http)
        self.assertEqual((got["x-request-id"], got["traceparent"]), ("mine", "00-1-2-01"))


class WholeTests(GatewayCase):
    """Answers that are not streamed."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.mesh(2, timeouts=Timeouts(total=600))

    def test_bytes_as_they_came(self) -> None:
        """A whole answer is the backend's, byte for byte."""
        client = self.ask()
        body = b'{ "id": 1.0,\n "x":"\\u00e9" }\n'
        self.a.work[0].json(200, body)
        self.turn()
        self.assertEqual(client.answer.body, body)
        self.assertEqual(client.answer.headers["content-type"], "application/json")

    def test_B7_cut(self) -> None:
        """Nobody gets the half of an answer: it is asked for again."""
        client = self.ask()
        self.a.work[0].say(wire.json_answer(200, whole("hi"))[:-3])
        self.turn()
        self.assertFalse(client.answered)
        self.a.work[0].end()
        self.turn()
        self.b.work[0].json(200, whole("again"))
        self.turn()
        self.assertEqual(client.answer.json, whole("again"))

    def test_B22_compressed(self) -> None:
        """What is compressed though nobody asked for it is no answer."""
        self.ask()
        self.a.work[0].json(200, whole("hi"), "Content-Encoding: br\r\n")
        self.turn()
        self.assertEqual(len(self.b.work), 1)

    def test_empty_content_encoding(self) -> None:
        """An encoding that is named but empty, as llama-server's, is none."""
        client = self.ask()
        self.a.work[0].json(200, whole("hi"), "Content-Encoding: \r\n")
        self.turn()
        self.assertEqual(client.answer.status, 200)

    def test_B28_another_type(self) -> None:
        """What looks like JSON under another name is no answer either."""
        self.ask()
        said = wire.json_answer(200, whole("hi")).replace(b"application/json", b"text/plain", 1)
        self.a.work[0].say(said)
        self.a.work[0].end()
        self.turn()
        self.assertEqual(len(self.b.work), 1)

    def test_B28_no_json(self) -> None:
        """HTML, words, and JSON that does not end are no answers, whatever their name."""
        for body in (b"<html>", b"", b'{"a": 1', b"hello"):
            asked = len(self.b.work)
            self.ask()
            self.a.work[-1].json(200, body)
            self.turn()
            self.assertEqual(len(self.b.work), asked + 1, body)
            self.b.work[-1].json(200, whole("hi"))
            self.turn()

    def test_B23_total(self) -> None:
        """An answer that drips is given up when its total time is over."""
        client = self.ask()
        exchange = self.a.work[0]
        exchange.say(wire.json_answer(200, whole("hi"))[:-100])
        for _ in range(59):
            self.net.spend(10, 2.5)
            exchange.say(b" ")
        self.assertFalse(client.answered)
        self.net.spend(11)
        self.assert_refused(client.answer, 504, "upstream_timeout")
        self.assertTrue(exchange.left)

    def test_too_long(self) -> None:
        """More than 16 MiB are not held."""
        self.ask()
        exchange = self.a.work[0]
        exchange.say(
            wire.head(200, "Content-Type: application/json\r\nContent-Length: 99999999\r\n")
        )
        for _ in range(17):
            exchange.say(b"1" * 2**20)
        self.turn()
        self.assertTrue(exchange.left)
        self.assertEqual(len(self.b.work), 1)

    def test_B19_passed_error(self) -> None:
        """An error of the client's is passed on, in our shape, and asked of nobody else."""
        client = self.ask()
        refusal = wire.error(400, "invalid_request_error", "top_k must be >= 0 in /srv/m/x.gguf")
        self.a.work[0].json(400, refusal)
        self.turn()
        error = self.assert_refused(client.answer, 400, "bad_request")
        self.assertIn("top_k must be >= 0", str(error["message"]))
        self.assertNotIn("/srv", str(error["message"]))
        self.assertEqual(client.answer.headers["x-should-retry"], "false")
        self.assertEqual(self.b.work, [])

    def test_B19_passed_error_to_anthropic(self) -> None:
        """Clients of `/v1/messages` read it in Anthropic's shape."""
        client = self.ask(MESSAGES)
        self.a.work[0].json(422, wire.error(422, "invalid_request_error", "no"))
        self.turn()
        answer = client.answer.json
        self.assertEqual((client.answer.status, answer["type"]), (422, "error"))
        self.assertEqual(answer["error"]["message"], "no")
        self.assertEqual(answer["request_id"], client.answer.headers["x-request-id"])

    def test_B21_redirect(self) -> None:
        """A redirect is not followed, and its target reaches nobody."""
        client = self.ask()
        for server in (self.a, self.b):
            server.work[0].json(302, {}, "Location: http://169.254.169.254/\r\n")
            self.turn()
        self.assert_refused(client.answer, 502, "upstream_error")
        self.assertNotIn(b"169.254", client.answer.data)


class StreamTests(GatewayCase):
    """The beginning of a stream, while it can still be another backend's."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.mesh(2)

    def first(self, event: object) -> Client:
        """A stream of which `a` has sent so much."""
        client = self.stream()
        self.a.work[-1].head()
        self.a.work[-1].event(event)
        self.turn()
        return client

    def test_B25_no_json(self) -> None:
        """A stream whose first event is no JSON is another backend's to give."""
        client = self.first(b"hello")
        self.assertTrue(self.a.work[0].left)
        self.assertEqual(len(self.b.work), 1)
        self.assertFalse(client.answered)

    def test_B27_error_first(self) -> None:
        """An error as the first event is that error, with its status."""
        client = self.first(
            {"error": {"code": 400, "message": "no", "type": "invalid_request_error"}}
        )
        self.assert_refused(client.answer, 400, "bad_request")
        self.assertTrue(self.a.work[0].left)
        self.assertEqual(self.b.work, [])

    def test_B27_fault_first(self) -> None:
        """A fault as the first event is another backend's chance."""
        self.first({"error": {"code": 500, "message": "CUDA error", "type": "server_error"}})
        self.assertEqual(len(self.b.work), 1)

    def test_no_event_at_all(self) -> None:
        """A stream that ends without an event is no answer."""
        self.stream()
        self.a.work[0].head()
        self.a.work[0].finish()
        self.turn()
        self.assertEqual(len(self.b.work), 1)

    def test_comments_only_are_no_answer(self) -> None:
        """Comments of the backend's hold the client's answer back."""
        client = self.stream()
        self.a.work[0].head()
        self.a.work[0].say(wire.chunk(b": hello\n\n"))
        self.turn()
        self.assertFalse(client.answered)

    def test_B28_a_stream_where_there_can_be_none(self) -> None:
        """Events in answer to what has none, whoever asked for them, are no answer."""
        for stream in (False, True):
            self.setUp()
            client = self.ask("/v1/embeddings", input="hi", stream=stream)
            self.a.work[0].head()
            self.a.work[0].text("hi", finish="stop")
            self.a.work[0].done()
            self.turn()
            self.assertEqual(len(self.b.work), 1)
            self.assertFalse(client.answered)

    def test_embeddings_have_no_stream(self) -> None:
        """Where there is nothing to stream, an answer as a whole is what was asked for."""
        client = self.ask("/v1/embeddings", input="hi", stream=True)
        self.a.work[0].json(200, {"data": []})
        self.turn()
        self.assertEqual(client.answer.json, {"data": []})


class ReadingTests(GatewayCase):
    """Streams of a llama-server that tells how far it is with the prompt."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server().llama(slots=2)
        self.start(role(self.server, timeouts=Timeouts(first_byte=5)))

    def tell(self, exchange: Exchange, processed: int) -> None:
        done = {"total": 900, "cache": 0, "processed": processed, "time_ms": 1}
        exchange.event({"choices": [], "object": "chat.completion.chunk", "prompt_progress": done})

    def test_P6_progress_is_asked_for(self) -> None:
        """Of whoever is known as llama-server, streaming or not; the client is not told."""
        client = self.ask(stream=True)
        exchange = self.server.work[0]
        self.assertTrue(exchange.request.json()["return_progress"])
        exchange.head()
        self.tell(exchange, 900)
        exchange.text("he", finish="stop")
        exchange.done()
        self.turn()
        self.assertNotIn(b"prompt_progress", client.answer.data)
        self.assertEqual(client.answer.text, "he")
        self.ask()
        self.assertTrue(self.server.work[1].request.json()["return_progress"])

    def test_B3_progress_is_no_silence(self) -> None:
        """A prompt may take longer than `first_byte` while its server tells of it."""
        client = self.ask(stream=True)
        exchange = self.server.work[0]
        exchange.head()
        for done in range(4):
            self.net.spend(4)
            self.tell(exchange, 200 * done)
        exchange.text("he", finish="stop")
        exchange.done()
        self.turn()
        self.assertEqual(client.answer.text, "he")

    def test_B3_the_progress_of_another(self) -> None:
        """What is told of one request says nothing of one that hangs beside it."""
        self.ask(stream=True)
        reading = self.ask(stream=True)
        self.server.work[1].head()
        for done in range(4):
            self.net.spend(2)
            self.tell(self.server.work[1], 200 * done)
        self.assertTrue(self.server.work[0].left)
        self.assertFalse(self.server.work[1].left)
        self.assertFalse(reading.answered)


class AssembleTests(GatewayCase):
    """Whole answers that are put together from a stream, so that a leaving client is noticed."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.net.server().llama(slots=2)

    def answered(self, *words: str, done: bool = True, **more: Any) -> Client:
        client = self.ask(**more)
        exchange = self.server.work[-1]
        exchange.head()
        exchange.text(*words, finish="stop")
        exchange.event({"id": "chatcmpl-1", "choices": [], "created": 1, "model": "m", **USAGE})
        if done:
            exchange.done()
        self.turn()
        return client

    def test_streamed_behind(self) -> None:
        """A llama-server is asked to stream, with the usage that a whole answer would have."""
        self.start(role(self.server))
        client = self.answered("he", "llo")
        got = self.server.work[0].request.json()
        self.assertEqual((got["stream"], got["stream_options"]), (True, {"include_usage": True}))
        answer = client.answer.json
        self.assertEqual(answer["object"], "chat.completion")
        self.assertEqual(answer["choices"][0]["message"]["content"], "hello")
        self.assertEqual(answer["usage"], USAGE["usage"])
        self.assertEqual(client.answer.headers["content-type"], "application/json")
        self.assertEqual(self.record(client)["usage"]["completion"], 2)

    def test_not_where_the_role_says_no(self) -> None:
        """A role may have whole answers asked for as such."""
        self.start(role(self.server, assemble=False))
        self.ask()
        self.assertNotIn("stream", self.server.work[0].request.json())

    def test_not_where_it_is_no_llama_server(self) -> None:
        """So has a server that is not known to be llama.cpp's."""
        other = self.net.server()
        self.start(role(other))
        self.ask()
        self.assertNotIn("stream", other.work[0].request.json())

    def test_B7_cut(self) -> None:
        """A stream that breaks off behind it is no answer, and is asked of another."""
        other = self.net.server()
        self.start(role(self.server, other))
        client = self.ask()
        self.server.work[0].head()
        self.server.work[0].text("he")
        self.turn()
        self.server.work[0].die()
        self.turn()
        self.assertFalse(client.answered)
        other.work[0].json(200, whole("again"))
        self.turn()
        self.assertEqual(client.answer.json, whole("again"))

    def test_B27_error_later(self) -> None:
        """An error in the middle of the stream is the answer's error."""
        self.start(role(self.server))
        client = self.ask()
        exchange = self.server.work[0]
        exchange.head()
        exchange.text("he")
        exchange.event({"error": {"code": 500, "message": "slot failed", "type": "server_error"}})
        exchange.finish()
        self.turn()
        self.assert_refused(client.answer, 502, "upstream_error")

    def test_B15_idle(self) -> None:
        """A stream that falls silent is given up."""
        self.start(role(self.server, timeouts=Timeouts(idle=10)))
        client = self.ask()
        self.server.work[0].head()
        self.server.work[0].text("he")
        self.net.spend(11)
        self.assertTrue(self.server.work[0].left)
        self.assertEqual(client.answer.status, 502)
