"""The promises of `rolemesh.gateway.delivery`: rows B6, B8, B24, C3 and P3 among them."""

from typing import Any

from twisted.internet.defer import CancelledError

from rolemesh.core.model import Target, Timeouts
from tests.doubles import wire
from tests.gateway.memory import CHAT, Client, Exchange, GatewayCase, Server, piece, role, whole

MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"


class StreamCase(GatewayCase):
    """One stream under way, from the server `a`."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.mesh(2)

    def begun(self, *words: str, path: str = CHAT, **more: Any) -> tuple[Client, Exchange]:
        client = self.ask(path, stream=True, **more)
        exchange = self.a.work[-1]
        exchange.head()
        exchange.text(*words)
        self.turn()
        return client, exchange

    def end(self) -> str:
        """How the log says that the latest request ended."""
        found: str = self.lines()[-1]["rolemesh.end"]
        return found


class WholeStreamTests(StreamCase):
    """Streams that come to their end."""

    def test_as_they_come(self) -> None:
        """Each event is with the client as soon as it came, byte for byte."""
        client, exchange = self.begun("one")
        self.assertEqual(client.answer.text, "one")
        event = b'id: 7\ndata: {"choices": [ ],\t"n": 1.0}\n\n: hello\n\n'
        exchange.say(wire.chunk(event))
        self.turn()
        self.assertTrue(client.answer.body.endswith(event))

    def test_spaces_before_json(self) -> None:
        """JSON may begin with spaces, in a stream as anywhere."""
        client, exchange = self.begun("one")
        exchange.say(wire.chunk(b'data:  {"choices": []}\n\n'))
        self.turn()
        self.assertFalse(client.line.closed)

    def test_done(self) -> None:
        """The end is the backend's: one [DONE], the last chunk, and the log says complete."""
        client, exchange = self.begun("one")
        exchange.text(finish="stop")
        exchange.done()
        self.turn()
        self.assertEqual(client.answer.body.count(b"[DONE]"), 1)
        self.assertTrue(client.answer.finished)
        self.assertEqual(self.end(), "complete")

    def test_B8_done_is_added(self) -> None:
        """A stream that said why it finished, and then ended, gets the [DONE] that it lacks."""
        client, exchange = self.begun("one")
        exchange.text(finish="stop")
        exchange.finish()
        self.turn()
        self.assertEqual(client.answer.data_lines[-1], b"[DONE]")
        self.assertTrue(client.answer.finished)
        self.assertIn("added", self.end())

    def test_P3_no_done_when_unfinished(self) -> None:
        """A stream that ends properly, but never said that it finished, is a broken one."""
        client, exchange = self.begun("one", "two")
        exchange.finish()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")

    def test_P3_every_choice(self) -> None:
        """Of two choices that were asked for, one's finish is not enough."""
        client, exchange = self.begun("one", n=2)
        exchange.text(finish="stop")
        exchange.finish()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")

    def test_usage(self) -> None:
        """What the stream's end tells of its cost is in the log and the record."""
        client, exchange = self.begun("one")
        exchange.text(finish="stop")
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        exchange.event({"choices": [], "usage": usage})
        exchange.done()
        self.turn()
        line = self.lines()[-1]
        self.assertEqual(line["gen_ai.usage.input_tokens"], 7)
        self.assertEqual(line["gen_ai.usage.output_tokens"], 3)
        self.assertEqual(self.record(client)["usage"]["prompt"], 7)

    def test_speed_is_learnt(self) -> None:
        """A backend that tells its speed is known by it at the next request."""
        timings = {"prompt_n": 100, "prompt_ms": 50.0, "predicted_n": 100}
        rates = []
        for took in (1000.0, 500.0, 500.0):
            client = self.ask()
            self.a.work[-1].json(200, whole("hi", timings={**timings, "predicted_ms": took}))
            self.turn()
            rates.append(self.record(client)["normal_rate"])
        self.assertEqual(rates[:2], [None, 100.0])
        self.assertTrue(100 < rates[2] < 200, rates)

    def test_headers(self) -> None:
        """The head says who answers, why, after how many tries; and how a stream is to be kept."""
        client, _ = self.begun("one")
        headers = client.answer.headers
        wanted = {
            "x-rolemesh-role": "coder",
            "x-rolemesh-node": "static",
            "x-rolemesh-backend": "coder-1",
            "x-rolemesh-route": "first",
            "x-rolemesh-attempts": "1",
            "x-rolemesh-queue-ms": "0",
            "openai-processing-ms": "0",
            "content-type": "text/event-stream; charset=utf-8",
            "cache-control": "no-cache, no-transform",
            "x-accel-buffering": "no",
        }
        self.assertEqual({name: headers.get(name) for name in wanted}, wanted)
        self.assertIn("x-request-id", headers)
        self.assertNotIn("x-rolemesh-model", headers)

    def test_model_header(self) -> None:
        """Where the backend's model is known, it is told."""
        GatewayCase.setUp(self)
        server = self.net.server()
        self.start(role(use=(Target(url=server.url, model="qwen"),)))
        client = self.ask()
        server.work[0].json(200, whole("hi"))
        self.turn()
        self.assertEqual(client.answer.headers["x-rolemesh-model"], "qwen")

    def test_nothing_of_the_backends_head(self) -> None:
        """No header of the backend's comes down."""
        client = self.ask()
        self.a.work[0].json(200, whole("hi"), "Set-Cookie: a=1\r\nX-Secret: 1\r\n")
        self.turn()
        for name in ("set-cookie", "x-secret", "server", "access-control-allow-origin"):
            self.assertNotIn(name, client.answer.headers)


class CutTests(StreamCase):
    """Streams that break: the client sees an error, and never an end."""

    def test_B6_death(self) -> None:
        """The events that came, the error, no [DONE], no last chunk, and no reset."""
        client, exchange = self.begun("one", "two")
        exchange.die()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assertEqual(client.answer.text, "onetwo")
        self.assertTrue(client.line.closed)
        message = client.answer.events[-1]["error"]["message"]
        self.assertIn("static/coder-1 went away", message)
        self.assertIn("'coder' is ready 1/2", message)
        self.assertIn(", after 2 events;", message)
        self.assertTrue(self.end().startswith("cut:"))
        self.assertIn("after 2 events", self.end())

    def test_half_an_event(self) -> None:
        """Half an event is kept back, so that the error behind it can be read."""
        client, exchange = self.begun("one")
        exchange.say(wire.chunk(b'data: {"choices":[{"de'))
        self.turn()
        exchange.die()
        self.turn()
        self.assertEqual(len(client.answer.events), 2)
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assertNotIn(b'{"de', client.answer.body)

    def test_B15_idle(self) -> None:
        """Silence for the idle time is an end, too."""
        GatewayCase.setUp(self)
        self.a, _ = self.mesh(2, timeouts=Timeouts(idle=20))
        client, exchange = self.begun("one")
        self.net.spend(21)
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assertIn("silent for 20 s", client.answer.events[-1]["error"]["message"])
        self.assertTrue(exchange.left)

    def test_B23_total(self) -> None:
        """An endless stream ends at the role's total time, counted from the try's begin."""
        GatewayCase.setUp(self)
        self.a, _ = self.mesh(2, timeouts=Timeouts(total=60))
        client = self.stream()
        exchange = self.a.work[-1]
        self.net.spend(10)
        exchange.head()
        for _ in range(50):
            self.assertFalse(client.line.closed)
            exchange.text("again")
            self.turn(1)
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assertTrue(exchange.left)

    def test_B24_endless_line(self) -> None:
        """An event that does not end is not kept without end."""
        client, exchange = self.begun("one")
        for _ in range(20):
            exchange.say(wire.chunk(b"x" * 65536))
        self.turn()
        self.assert_broken_off(client.answer, "upstream_error")
        self.assertTrue(exchange.left)

    def test_anthropic(self) -> None:
        """Under `/v1/messages` the error event has Anthropic's name and shape."""
        client, exchange = self.begun(path=MESSAGES)
        exchange.say(wire.chunk(b'event: message_start\ndata: {"type":"message_start"}\n\n'))
        self.turn()
        exchange.die()
        self.turn()
        self.assertIn(b"\nevent: error\n", client.answer.body)
        error = client.answer.events[-1]
        self.assertEqual((error["type"], error["error"]["type"]), ("error", "api_error"))
        self.assertFalse(client.answer.finished)

    def test_responses(self) -> None:
        """Under `/v1/responses` it has the Responses API's."""
        client, exchange = self.begun(path=RESPONSES)
        exchange.say(wire.chunk(b'event: response.created\ndata: {"type":"response.created"}\n\n'))
        self.turn()
        exchange.finish()
        self.turn()
        self.assertIn(b"\nevent: error\n", client.answer.body)
        error = client.answer.events[-1]
        self.assertEqual((error["type"], error["code"]), ("error", "upstream_disconnected"))
        self.assertFalse(client.answer.finished)

    def test_last_event_of_anthropic(self) -> None:
        """A stream of messages is whole with its own last event, and gets no [DONE]."""
        client, exchange = self.begun(path=MESSAGES)
        exchange.say(wire.chunk(b'event: message_start\ndata: {"type":"message_start"}\n\n'))
        exchange.say(wire.chunk(b'event: message_stop\ndata: {"type":"message_stop"}\n\n'))
        exchange.finish()
        self.turn()
        self.assertTrue(client.answer.finished)
        self.assertNotIn(b"[DONE]", client.answer.body)

    def test_slot_is_free(self) -> None:
        """A stream that broke gives its slot back."""
        GatewayCase.setUp(self)
        self.a = self.net.server()
        self.start(role(self.a, slots=1))
        _, exchange = self.begun("one")
        exchange.die()
        self.turn()
        self.ask()
        self.assertEqual(len(self.a.work), 2)

    def test_B6_counts_against_the_backend(self) -> None:
        """One that breaks off again and again is left alone while there is another."""
        for _ in range(5):
            _, exchange = self.begun("one")
            exchange.die()
            self.turn()
        self.stream()
        self.assertEqual((len(self.a.work), len(self.b.work)), (5, 1))


class SlowClientTests(StreamCase):
    """C3: a client that does not read slows its own backend down and nobody else."""

    def test_C3_backpressure(self) -> None:
        """While the client's buffer is full the gateway reads nothing more for it."""
        client, exchange = self.begun("one")
        client.stop_reading()
        before = len(client.answer.data)
        exchange.text(*["word"] * 100)
        self.turn()
        self.assertEqual(len(client.answer.data), before)
        self.assertGreater(exchange.line.unread, 0)
        client.read_on()
        self.assertEqual(exchange.line.unread, 0)
        self.assertEqual(client.answer.text, "one" + 100 * "word")

    def test_C3_given_up(self) -> None:
        """After a minute both ends are closed, and the client is not told that it was served."""
        client, exchange = self.begun("one")
        client.stop_reading()
        exchange.text(*["word"] * 100)
        self.net.spend(61)
        self.assertTrue(client.line.aborted)
        self.assertTrue(exchange.left)
        self.assertEqual(self.end(), "the client did not read")
        self.assertEqual(self.ready(), (2, 2))
        self.flushLoggedErrors(CancelledError)

    def test_C3_given_up_quietly(self) -> None:
        """That is no failure of the gateway's: its log has no traceback."""
        client, _ = self.begun("one")
        client.stop_reading()
        self.net.spend(61)
        self.assertEqual(self.flushLoggedErrors(CancelledError), [])

    def test_C3_others_go_on(self) -> None:
        """Another client of the same backend reads at its own pace."""
        slow, _ = self.begun("one")
        slow.stop_reading()
        other, exchange = self.begun("one")
        exchange.text("two")
        self.turn()
        self.assertEqual(other.answer.text, "onetwo")


class RescueTests(GatewayCase):
    """A role may have the rest of a broken stream from another backend of the same model."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.net.server(), self.net.server()
        self.start(self.rescued(self.a, self.b))
        self.asked = self.stream(max_tokens=10)
        self.a.work[0].head()
        self.a.work[0].event({**piece(None), "choices": [OPENING]})
        self.a.work[0].text("one", "two")
        self.turn()

    def rescued(self, *servers: Server, models: tuple[str, ...] = ("m", "m")) -> Any:
        named = zip(servers, models, strict=True)
        use = tuple(Target(url=server.url, model=model) for server, model in named)
        return role(use=use, rescue=True)

    def cut(self) -> None:
        self.a.work[0].die()
        self.turn()

    def second(self, *words: str, id: str = "chatcmpl-2") -> Exchange:
        exchange = self.b.work[0]
        exchange.head()
        for word in words:
            exchange.event({**piece(word), "id": id})
        self.turn()
        return exchange

    def test_goes_on(self) -> None:
        """The client gets one answer with one id, all of its words, and its proper end."""
        self.cut()
        exchange = self.second("three")
        exchange.event({**piece(None, "stop"), "id": "chatcmpl-2"})
        exchange.done()
        self.turn()
        answer = self.asked.answer
        self.assertEqual(answer.text, "onetwothree")
        self.assertEqual({event["id"] for event in answer.events}, {"chatcmpl-1"})
        self.assertEqual(answer.data_lines[-1], b"[DONE]")
        self.assertTrue(answer.finished)
        self.assertIn(b": static/coder-1 went away", answer.body)
        outcomes = [each["outcome"] for each in self.record(self.asked)["attempts"]]
        self.assertEqual(outcomes, ["cut", "served"])

    def test_B8_cut_in_the_usage(self) -> None:
        """All words are there and half an event is not: the answer ends, and nobody goes on."""
        self.a.work[0].text(finish="stop")
        self.a.work[0].say(wire.chunk(b'data: {"choices":[],"usage":{"prompt'))
        self.cut()
        answer = self.asked.answer
        self.assertEqual((answer.text, answer.data_lines[-1]), ("onetwo", b"[DONE]"))
        self.assertNotIn(b'"usage"', answer.body)
        self.assertTrue(answer.finished)
        self.assertEqual(self.b.work, [])

    def test_P3_cut_in_a_tool_call(self) -> None:
        """What cannot be rescued ends in the error's event, with no half event before it."""
        self.a.work[0].event(
            {"choices": [{"index": 0, "finish_reason": None, "delta": {"tool_calls": [{}]}}]}
        )
        self.a.work[0].say(wire.chunk(b'data: {"choices":[{"delta'))
        self.cut()
        self.assert_broken_off(self.asked.answer, "upstream_disconnected")
        self.assertNotIn(b'[{"delta\n', self.asked.answer.body)

    def test_asked_for_the_rest(self) -> None:
        """The second backend is given what was said, and asked for no more than what is left."""
        self.cut()
        asked = self.b.work[0].request.json()
        self.assertEqual(asked["messages"][-1], {"role": "assistant", "content": "onetwo"})
        self.assertEqual(asked["max_tokens"], 8)

    def test_client_leaves(self) -> None:
        """A client that leaves while the second goes on frees that one."""
        self.cut()
        exchange = self.second("three")
        self.asked.leave()
        self.assertTrue(exchange.left)

    def test_second_breaks(self) -> None:
        """When the second breaks off as well, that is the end."""
        self.cut()
        self.second("three").die()
        self.turn()
        self.assert_broken_off(self.asked.answer, "upstream_disconnected")
        self.assertEqual(self.asked.answer.text, "onetwothree")

    def test_nobody_else(self) -> None:
        """When nobody else can go on, the first one's end is the client's."""
        self.b.mood = "refuse"
        self.net.spend(6)
        self.cut()
        self.net.spend(1)
        self.assert_broken_off(self.asked.answer, "upstream_disconnected")
        self.assertIn("static/coder-1", self.asked.answer.events[-1]["error"]["message"])

    def test_another_model(self) -> None:
        """A backend of another model never goes on with an answer."""
        GatewayCase.setUp(self)
        self.a, self.b = self.net.server(), self.net.server()
        self.start(self.rescued(self.a, self.b, models=("m", "other")))
        self.asked = self.stream()
        self.a.work[0].head()
        self.a.work[0].text("one")
        self.turn()
        self.cut()
        self.assertEqual(self.b.work, [])
        self.assert_broken_off(self.asked.answer, "upstream_disconnected")


OPENING = {"index": 0, "delta": {"role": "assistant", "content": None}, "finish_reason": None}
