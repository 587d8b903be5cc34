"""One suite over the double and over the real llama.cpp server, so that the double cannot drift."""

import os
import sys
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from tests.doubles import raw
from tests.doubles.fakellama import Fakellama
from tests.doubles.slots import Speed
from tests.doubles.wire import PING, chunk
from tests.real.harness import LLAMA_SERVER, Workshop, free_port, need_llama

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "hello world"}]
LOADING = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
LONG = "x " * 3000
SLOTS, CONTEXT = 2, 2048


def ask(count: int, **more: Any) -> dict[str, Any]:
    """A chat of `count` tokens at temperature 0."""
    return {"messages": HELLO, "max_tokens": count, "temperature": 0, "ignore_eos": True, **more}


def sleep(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)


if TYPE_CHECKING:
    Assertions = TestCase
else:
    Assertions = object  # trial must not run the contract by itself


class Contract(Assertions):
    """What holds for llama-server, the true one and the double; bound to each below."""

    def start(self, *, slow: bool = False, key: str | None = None) -> int:
        """A server with two slots of 2048 tokens; its port. A slow one can be watched."""
        raise NotImplementedError

    def start_loading(self) -> int:
        """A server that is loading its model; its port."""
        raise NotImplementedError

    async def post(self, port: int, path: str, body: object) -> raw.Answer:
        return await raw.post(reactor, port, path, body)

    async def get(self, port: int, path: str) -> raw.Answer:
        return await raw.get(reactor, port, path)

    async def busy(self, port: int) -> int:
        return sum(slot["is_processing"] for slot in (await self.get(port, "/slots")).json)

    async def until_busy(self, port: int, count: int, seconds: float = 60.0) -> float:
        """The seconds until that many slots are busy; fails after `seconds`."""
        began = reactor.seconds()
        while await self.busy(port) != count:
            if reactor.seconds() - began > seconds:
                self.fail(f"not {count} busy slots within {seconds} s")
            await sleep(0.02)
        return reactor.seconds() - began

    async def test_loading_is_503_and_closes_on_every_path(self) -> None:
        """While the model loads, /health and work alike get one 503 and a closed connection."""
        port = self.start_loading()
        health = await self._first_answer(port)
        self.assertEqual((health.status, health.body), (503, LOADING))
        self.assertEqual(health.headers["connection"], "close")
        work = await self.post(port, CHAT, ask(1))
        self.assertEqual((work.status, work.body), (503, LOADING))

    async def _first_answer(self, port: int) -> raw.Answer:
        while True:
            try:
                return await self.get(port, "/health")
            except ConnectError:
                await sleep(0.002)

    async def test_whole_answer(self) -> None:
        """A whole answer has choices, usage and timings, under the server's own model name."""
        answer = await self.post(self.start(), CHAT, ask(4, model="whatever"))
        self.assertEqual(answer.status, 200)
        body = answer.json
        self.assertEqual((body["model"], body["object"]), ("tiny", "chat.completion"))
        self.assertEqual(body["choices"][0]["finish_reason"], "length")
        self.assertEqual(len(body["choices"][0]["message"]["content"].split()), 4)
        self.assertEqual(body["usage"]["completion_tokens"], 4)
        self.assertEqual(body["usage"]["prompt_tokens_details"], {"cached_tokens": 0})
        self.assertEqual(body["timings"]["predicted_n"], 4)

    async def test_stream_shape(self) -> None:
        """Role first, one event a token, then the reason with timings and without usage, [DONE]."""
        answer = await self.post(self.start(), CHAT, ask(3, stream=True))
        first, *tokens, last = answer.events
        self.assertEqual(answer.headers["content-type"], "text/event-stream")
        self.assertEqual(first["choices"][0]["delta"], {"role": "assistant", "content": None})
        self.assertEqual([set(each["choices"][0]["delta"]) for each in tokens], [{"content"}] * 3)
        self.assertEqual(last["choices"][0]["delta"], {})
        self.assertEqual(last["choices"][0]["finish_reason"], "length")
        self.assertEqual(last["timings"]["predicted_n"], 3)
        self.assertNotIn("usage", last)
        self.assertEqual(answer.data_lines[-1], b"[DONE]")
        self.assertTrue(answer.finished)

    async def test_include_usage_adds_an_event_without_choices(self) -> None:
        """With include_usage, usage and timings ride on one more event, whose choices are empty."""
        options = {"include_usage": True}
        answer = await self.post(self.start(), CHAT, ask(2, stream=True, stream_options=options))
        end, counted = answer.events[-2:]
        self.assertNotIn("timings", end)
        self.assertEqual(counted["choices"], [])
        self.assertEqual(counted["usage"]["completion_tokens"], 2)
        self.assertIn("cache_n", counted["timings"])

    async def test_every_event_has_the_same_keys_as_the_real_ones(self) -> None:
        """An event names its id, model, kind and build, and all of a stream share one id."""
        events = (await self.post(self.start(), CHAT, ask(2, stream=True))).events
        keys = {"choices", "created", "id", "model", "system_fingerprint", "object"}
        self.assertEqual(set(events[0]), keys)
        self.assertEqual(set(events[-1]), {*keys, "timings"})
        self.assertEqual(len({each["id"] for each in events}), 1)

    async def test_text_completion_stream(self) -> None:
        """/v1/completions has no first role and puts usage and timings on its last event."""
        answer = await self.post(
            self.start(), TEXT, {"prompt": "hello", "max_tokens": 2, "stream": True}
        )
        *tokens, last = answer.events
        self.assertEqual(len(tokens), 2)
        self.assertEqual(last["choices"][0]["text"], "")
        self.assertEqual(last["usage"]["completion_tokens"], 2)
        self.assertIn("timings", last)
        self.assertEqual(answer.data_lines[-1], b"[DONE]")

    async def test_connection_closes_after_a_stream(self) -> None:
        """The head promises to keep the connection; after the last chunk it is closed at once."""
        client = await raw.connect(reactor, self.start())
        client.post(CHAT, ask(2, stream=True), close=False)
        answer = await client.closed
        self.assertIn("keep-alive", answer.headers)
        self.assertNotIn("connection", answer.headers)
        self.assertTrue(answer.finished)

    async def test_connection_is_kept_after_a_whole_answer(self) -> None:
        """A connection serves a second request after a whole answer."""
        client = await raw.connect(reactor, self.start())
        client.post(CHAT, ask(1), close=False)
        await client.seen(b"predicted_n")
        client.get("/health")
        answer = await client.closed
        self.assertEqual(answer.data.count(b"HTTP/1.1 200 OK"), 2)

    async def test_errors_have_integer_codes_and_close(self) -> None:
        """Bad JSON, missing messages and an unknown path: an integer code, a closed connection."""
        port = self.start()
        for path, body, status in (
            (CHAT, b'{"messages": ', 400),
            (CHAT, {"model": "tiny"}, 400),
            (CHAT, {"messages": "hi"}, 400),
            (TEXT, {}, 400),
            ("/nope", {}, 404),
            ("/v1/embeddings", {"input": "hi"}, 501),
        ):
            answer = await self.post(port, path, body)
            self.assertEqual((answer.status, answer.json["error"]["code"]), (status, status))
            self.assertEqual(answer.headers["connection"], "close")

    async def test_too_long_prompt_is_a_plain_400_also_for_a_stream(self) -> None:
        """A prompt over a slot's context is refused with both numbers, as JSON in either mode."""
        port = self.start()
        for stream in (False, True):
            body = ask(2, messages=[{"role": "user", "content": LONG}], stream=stream)
            answer = await self.post(port, CHAT, body)
            error = answer.json["error"]
            self.assertEqual((answer.status, error["type"]), (400, "exceed_context_size_error"))
            self.assertEqual(error["n_ctx"], CONTEXT)
            self.assertGreater(error["n_prompt_tokens"], CONTEXT)

    async def test_context_is_per_slot(self) -> None:
        """/props, /slots and /v1/models all tell the context of one slot."""
        port = self.start()
        props = (await self.get(port, "/props")).json
        slots = (await self.get(port, "/slots")).json
        models = (await self.get(port, "/v1/models")).json
        self.assertEqual(props["default_generation_settings"]["n_ctx"], CONTEXT)
        self.assertEqual(props["total_slots"], SLOTS)
        self.assertEqual([slot["n_ctx"] for slot in slots], [CONTEXT] * SLOTS)
        self.assertEqual(models["data"][0]["id"], "tiny")
        self.assertEqual(models["data"][0]["meta"]["n_ctx"], CONTEXT)

    async def test_props_tell_what_a_gateway_reads(self) -> None:
        """/props has the model's alias, the build, its modalities and what its template can do."""
        props = (await self.get(self.start(), "/props")).json
        self.assertEqual(props["model_alias"], "tiny")
        self.assertEqual(set(props["modalities"]), {"vision", "video", "audio"})
        self.assertIn("supports_tools", props["chat_template_caps"])
        for key in ("build_info", "model_path", "endpoint_slots", "is_sleeping"):
            self.assertIn(key, props)

    async def test_same_prompt_again_is_cached_but_for_one_token(self) -> None:
        """A prompt that a slot holds is read again only in its last token."""
        port = self.start()
        first = (await self.post(port, CHAT, ask(2))).json["timings"]
        again = (await self.post(port, CHAT, ask(2))).json["timings"]
        self.assertEqual((first["cache_n"], again["prompt_n"]), (0, 1))
        self.assertEqual(again["cache_n"], first["prompt_n"] - 1)

    async def test_an_assistants_last_message_is_continued(self) -> None:
        """A stream goes on exactly where the message stops; a whole answer repeats the message."""
        port = self.start()
        whole = (await self.post(port, CHAT, ask(6))).json["choices"][0]["message"]["content"]
        begun = "".join(f" {word}" for word in whole.split()[:2])
        messages = [*HELLO, {"role": "assistant", "content": begun}]
        rest = await self.post(port, CHAT, ask(4, messages=messages, stream=True))
        repeated = await self.post(port, CHAT, ask(4, messages=messages))
        self.assertEqual(begun + rest.text, whole)
        self.assertEqual(repeated.json["choices"][0]["message"]["content"], whole)

    async def test_progress_of_a_prompt(self) -> None:
        """With return_progress a stream first tells how much of the prompt is read."""
        answer = await self.post(self.start(), CHAT, ask(1, stream=True, return_progress=True))
        progress = [each["prompt_progress"] for each in answer.events if "prompt_progress" in each]
        self.assertEqual(set(progress[0]), {"total", "cache", "processed", "time_ms"})
        self.assertEqual(progress[-1]["processed"], progress[-1]["total"])

    async def test_no_tokens_wanted_gives_one(self) -> None:
        """max_tokens 0 makes one token; a negative one is refused."""
        port = self.start()
        none = (await self.post(port, CHAT, ask(0))).json
        self.assertEqual(none["usage"]["completion_tokens"], 1)
        self.assertEqual((await self.post(port, CHAT, ask(-5))).status, 400)

    async def test_a_key_guards_all_but_health(self) -> None:
        """Without its key a server says 401 to all but /health."""
        port = self.start(key="secret")
        self.assertEqual((await self.get(port, "/health")).status, 200)
        for path in ("/props", "/slots", "/v1/models"):
            self.assertEqual((await self.get(port, path)).status, 401)
        refused = await self.post(port, CHAT, ask(1))
        self.assertEqual(refused.json["error"]["code"], 401)
        let_in = {"Authorization": "Bearer secret"}
        self.assertEqual((await raw.post(reactor, port, CHAT, ask(1), let_in)).status, 200)

    async def test_disconnect_from_a_stream_frees_the_slot(self) -> None:
        """A slot is free soon after the reader of a stream has gone."""
        port = self.start(slow=True)
        client = await raw.connect(reactor, port)
        client.post(CHAT, ask(1000, stream=True))
        await client.seen(b'"content":" ')
        self.assertEqual(await self.busy(port), 1)
        client.leave()
        self.assertLess(await self.until_busy(port, 0), 3.0)  # all of it takes some ten

    async def test_disconnect_is_not_noticed_while_results_flow(self) -> None:
        """Nobody looks at the client of a whole answer while /slots is asked all the time."""
        port = self.start(slow=True)
        client = await raw.connect(reactor, port)
        client.post(CHAT, ask(1000))
        await self.until_busy(port, 1)
        client.leave()
        for _ in range(15):
            await sleep(0.1)
            self.assertEqual(await self.busy(port), 1)

    async def test_more_requests_than_slots_wait(self) -> None:
        """A third request on two slots waits, is counted as deferred, and is answered at last."""
        port = self.start(slow=True)
        answers = [self.post(port, CHAT, ask(150)) for _ in range(3)]
        waiting = gatherResults([Deferred.fromCoroutine(each) for each in answers])
        await self.until_busy(port, 2)
        while "llamacpp:requests_deferred 1\n" not in (metrics := await self.metrics(port)):
            await sleep(0.02)
        self.assertIn("llamacpp:requests_processing 2\n", metrics)
        self.assertEqual((await self.get(port, "/health")).status, 200)
        full = await self.get(port, "/slots?fail_on_no_slot=1")
        self.assertEqual((full.status, full.json["error"]["message"]), (503, "no slot available"))
        self.assertEqual([answer.status for answer in await waiting], [200, 200, 200])

    async def metrics(self, port: int) -> str:
        return (await self.get(port, "/metrics")).body.decode()

    async def test_a_busy_slot_tells_its_progress(self) -> None:
        """/slots says of a busy slot how much was read and how many tokens were made."""
        port = self.start(slow=True)
        client = await raw.connect(reactor, port)
        client.post(CHAT, ask(1000, stream=True))
        await client.seen(b'"content":" ')
        before = await self._decoded(port)
        while await self._decoded(port) == before:
            await sleep(0.02)
        self.assertGreater(await self._decoded(port), before)
        client.leave()
        await self.until_busy(port, 0)

    async def _decoded(self, port: int) -> int:
        slots = (await self.get(port, "/slots")).json
        busy = next(slot for slot in slots if slot["is_processing"])
        self.assertGreaterEqual(busy["n_prompt_tokens"], 1)
        return busy["next_token"][0]["n_decoded"]


class FakellamaTests(Contract, TestCase):
    """The double, in-process."""

    def start(self, *, slow: bool = False, key: str | None = None) -> int:
        speed = Speed(decode=100 if slow else 0)
        fake = Fakellama(
            reactor, slots=SLOTS, context=CONTEXT, api_key=key, speed=speed, length=1000
        )
        self.addCleanup(lambda: Deferred.fromCoroutine(fake.stop()))
        return fake.listen()

    def start_loading(self) -> int:
        fake = Fakellama(reactor)
        fake.behave("loading!")
        self.addCleanup(lambda: Deferred.fromCoroutine(fake.stop()))
        return fake.listen()


class LlamaServerTests(Contract, TestCase):
    """The real llama.cpp server."""

    def setUp(self) -> None:
        need_llama()
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)

    def start(self, *, slow: bool = False, key: str | None = None) -> int:
        model = self.workshop.slow_model() if slow else self.workshop.model()
        extra = ["--metrics", "-c", str(SLOTS * CONTEXT), *(["--api-key", key] if key else [])]
        return int(self.workshop.llama_server(model, *extra).url.rpartition(":")[2])

    def start_loading(self) -> int:
        port, model = free_port(), self.workshop.folder / "endless.gguf"
        os.mkfifo(model)  # as on a disk that hangs
        argv = [*LLAMA_SERVER, "--model", str(model), "--port", str(port), "-t", "1"]
        self.workshop.start("llama-server", argv)
        return port

    async def test_a_stream_that_is_silent_gets_comments(self) -> None:
        """While another's long prompt is read, a stream has chunks with a comment and no more."""
        options = ["-c", "8192", "-b", "4096", "--sse-ping-interval", "1"]
        server = self.workshop.llama_server(self.workshop.slow_model(), *options)
        port = int(server.url.rpartition(":")[2])
        client = await raw.connect(reactor, port)
        client.post(CHAT, ask(1900, stream=True))
        await client.seen(b'"content":" ')
        for words in (1000, 1900):  # the first are read too quickly by a fast machine
            long = [{"role": "user", "content": f"{words} " + "x " * words}]
            await self.post(port, CHAT, ask(1, messages=long))
            if chunk(PING) in client.data:
                break
        self.assertIn(chunk(PING), client.data)
        client.leave()
        await self.until_busy(port, 0)


class Parent(ProcessProtocol):
    """Collects what a child prints; `ended` fires when it has ended."""

    def __init__(self) -> None:
        self.out = b""
        self.ended: Deferred[None] = Deferred()

    def outReceived(self, data: bytes) -> None:
        self.out += data

    def processEnded(self, _: object) -> None:
        self.ended.callback(None)


class FakellamaOnly(TestCase):
    """What only a double can do: fail on purpose and remember what it saw."""

    def setUp(self) -> None:
        self.fake = Fakellama(reactor)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.fake.stop()))
        self.port = self.fake.listen()

    async def test_a_script_counts_requests(self) -> None:
        """`2*loading` refuses two requests, not the probes between them, and then serves."""
        self.fake.behave("2*loading")
        statuses = []
        for path in (CHAT, "/health", CHAT, CHAT):
            asked = raw.get if path == "/health" else raw.post
            answer = await asked(reactor, self.port, path, *([] if asked is raw.get else [ask(1)]))
            statuses.append(answer.status)
        self.assertEqual(statuses, [503, 200, 503, 200])

    async def test_it_remembers_what_it_saw(self) -> None:
        """A call keeps the request as it came and how it ended."""
        await raw.post(reactor, self.port, CHAT, ask(2), {"X-Nonce": "7"})
        call = self.fake.work[0]
        self.assertEqual(call.request.header("x-nonce"), "7")
        self.assertEqual(call.request.json()["max_tokens"], 2)
        self.assertEqual((call.outcome, self.fake.running), ("whole", set()))

    async def test_it_remembers_when_a_client_left(self) -> None:
        """A client that goes before it is answered is on record with its time."""
        self.fake.behave("hang")
        client = await raw.connect(reactor, self.port)
        client.post(CHAT, ask(1))
        while not self.fake.running:
            await sleep(0.01)
        client.leave()
        while self.fake.running:
            await sleep(0.01)
        call = self.fake.work[0]
        self.assertEqual(call.outcome, "left")
        self.assertGreater(call.ended_at or 0, call.at)

    async def test_refusing_and_listening_again_keeps_the_port(self) -> None:
        """A double that refuses connects comes back where it was."""
        await self.fake.refuse()
        await self.assertFailure(raw.connect(reactor, self.port), ConnectError)
        self.assertEqual(self.fake.listen(), self.port)
        self.assertEqual((await raw.get(reactor, self.port, "/health")).status, 200)

    async def test_a_client_that_does_not_read_stops_the_model(self) -> None:
        """An endless stream is made no faster than it is read."""
        self.fake.behave("endless")
        client = await raw.connect(reactor, self.port)
        client.post(CHAT, ask(1, stream=True))
        await client.seen(b"green")
        client.transport.pauseProducing()
        while not self.fake.work[0].pauses:
            await sleep(0.02)
        client.leave()

    async def test_as_a_program(self) -> None:
        """Run with `-m` it prints its port, serves, obeys its standard input and ends with it."""
        parent = Parent()
        argv = [sys.executable, "-m", "tests.doubles.fakellama", "--control"]
        process = reactor.spawnProcess(parent, argv[0], argv, env=None)
        while b"\n" not in parent.out:
            await sleep(0.02)
        port = int(parent.out)
        self.assertEqual((await raw.get(reactor, port, "/health")).status, 200)
        process.write(b"behave loading\ncalls\n")
        while b"}" not in parent.out:
            await sleep(0.02)
        self.assertEqual((await raw.post(reactor, port, CHAT, ask(1))).status, 503)
        self.assertEqual(msgspec.json.decode(parent.out.splitlines()[1])["calls"], 0)
        process.closeStdin()
        await parent.ended
