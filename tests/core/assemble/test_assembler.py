"""Streams are put together whole or not at all; what a stream adds is kept, also if unknown."""

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.assemble import Assembler, Failure, as_stream
from rolemesh.core.assemble import assembler as module
from rolemesh.core.openai import Api, read
from rolemesh.core.sse import BrokenStream

HEAD = {"created": 7, "id": "chatcmpl-1", "model": "tiny", "system_fingerprint": "b1-x"}
DONE = b"data: [DONE]\n\n"


def event(value: object, name: str = "") -> bytes:
    data = f"data: {json.dumps(value)}\n\n".encode()
    return f"event: {name}\n".encode() + data if name else data


def chunk(delta: Any, index: int = 0, reason: str | None = None, **more: Any) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": reason, **more}
    return event({"choices": [choice], **HEAD, "object": "chat.completion.chunk"})


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": more.pop("name")} if more else {})}
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def assembled(api: Api, *pieces: bytes) -> Any:
    assembler = Assembler(api, {})
    for piece in pieces:
        assembler.feed(piece)
    return json.loads(assembler.finish())


class ChatTests(SynchronousTestCase):
    def message(self, *pieces: bytes) -> Any:
        (choice,) = assembled(Api.CHAT, *pieces, DONE)["choices"]
        return choice["message"]

    def test_parallel_tool_calls(self) -> None:
        """Fragments of several calls find their call by its index, in any order."""
        found = self.message(
            chunk({"role": "assistant", "content": None}),
            chunk(call(0, "{", id="a", type="function", name="f")),
            chunk(call(1, "[", id="b", type="function", name="g")),
            chunk(call(0, "}")),
            chunk(call(1, "]")),
            chunk({}, reason="tool_calls"),
        )
        calls = [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "type": "function", "function": {"name": "g", "arguments": "[]"}},
        ]
        self.assertEqual(found, {"role": "assistant", "content": "", "tool_calls": calls})

    def test_texts_of_every_name(self) -> None:
        """Content, reasoning, a refusal and texts yet unknown are each put together."""
        names = ("content", "reasoning_content", "refusal", "thoughts")
        pieces = [chunk({name: piece}) for piece in ("a", "b") for name in names]
        found = self.message(*pieces, chunk({}, reason="stop"))
        self.assertEqual(found, dict.fromkeys(names, "ab"))

    def test_unknown_members_are_kept(self) -> None:
        """What a later server adds to chunks, choices or deltas is in the answer."""
        found = assembled(
            Api.CHAT,
            event({"choices": [], "service_tier": "x"}),
            chunk({"audio": {"id": 1}}, score=0.5, logprobs={"content": [1], "refusal": None}),
            chunk({}, reason="stop", logprobs={"content": [2]}),
            DONE,
        )
        (choice,) = found["choices"]
        self.assertEqual((found["service_tier"], choice["score"]), ("x", 0.5))
        self.assertEqual(choice["message"]["audio"], {"id": 1})
        self.assertEqual(choice["logprobs"], {"content": [1, 2], "refusal": None})

    def test_usage_is_the_first_choices(self) -> None:
        """With several choices the usage that counts is the first one's, whoever ends last."""
        for order in ((0, 1), (1, 0)):
            pieces = [chunk({"content": "x"}, index) for index in order]
            for index in order:
                pieces.append(chunk({}, index, "stop"))
                pieces.append(event({"choices": [], "usage": {"n": index}, "timings": {}}))
            found = assembled(Api.CHAT, *pieces, DONE)
            self.assertEqual(found["usage"], {"n": 0})
            self.assertEqual([choice["index"] for choice in found["choices"]], [0, 1])

    @given(st.lists(st.integers(1, 900), max_size=6))
    def test_any_split(self, cuts: list[int]) -> None:
        """The answer does not depend on the pieces in which the stream came."""
        stream = chunk({"content": "später"}) + chunk(call(0, "{}", id="a", name="f"))
        stream += chunk({}, reason="stop") + event({"choices": [], "usage": {}}) + DONE
        at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        pieces = [stream[a:b] for a, b in pairwise(at)]
        self.assertEqual(assembled(Api.CHAT, *pieces), assembled(Api.CHAT, stream))


class WholeOrNotTests(SynchronousTestCase):
    def test_B7_cut_stream_gives_no_answer(self) -> None:
        """A stream that ends before its last event is never dressed up as an answer."""
        start = event({"type": "message_start", "message": {"usage": {}}}, "message_start")
        streams = {
            Api.CHAT: chunk({"content": "a"}, reason="stop"),
            Api.COMPLETIONS: b"data: null\n\n",
            Api.RESPONSES: event({"response": {}}, "response.created"),
            Api.MESSAGES: start,
        }
        for api, stream in streams.items():
            with self.assertRaises(BrokenStream):
                assembled(api, stream)

    def test_B25_what_is_no_such_stream(self) -> None:
        """Events that are no JSON, or of another shape, break the stream and nothing else."""
        for data in (b"{", b"7", b"[]", b'{"choices":7}', b'{"choices":[{}]}', b"[" * 9999):
            with self.assertRaises(BrokenStream):
                assembled(Api.CHAT, b"data: " + data + b"\n\n")
        with self.assertRaises(BrokenStream):
            assembled(Api.MESSAGES, event({"index": 3, "delta": {}}, "content_block_delta"))
        with self.assertRaises(BrokenStream):
            assembled(Api.RESPONSES, event({"response": {"output": [7]}}, "response.completed"))

    def test_B27_error_event(self) -> None:
        """An error in the stream is told as the server would have told it without a stream."""
        for api, name in ((Api.CHAT, ""), (Api.RESPONSES, ""), (Api.MESSAGES, "error")):
            said = {"type": "error", "error": {"code": 503, "message": "m", "type": "t"}}
            assembler = Assembler(api, {})
            assembler.feed(event(said, name) + DONE)
            assert isinstance(assembler.error, Failure)
            self.assertEqual(assembler.error.status, 503)
            self.assertEqual(json.loads(assembler.error.body), said)
            with self.assertRaises(BrokenStream):
                assembler.finish()

    def test_error_without_a_status(self) -> None:
        """An error that names no HTTP status is a server's error."""
        assembler = Assembler(Api.CHAT, {})
        assembler.feed(event({"error": {"message": "m", "code": "x"}}))
        assert assembler.error is not None
        self.assertEqual(assembler.error.status, 500)

    def test_texts_about_errors_are_texts(self) -> None:
        """A model may say "error"; a response may hold a null one."""
        found = assembled(Api.CHAT, event({"error": None, "choices": []}), DONE)
        self.assertEqual(found["choices"], [])
        last = {"type": "response.completed", "response": {"error": None, "output": []}}
        self.assertIsNone(assembled(Api.RESPONSES, event(last, "response.completed"))["error"])

    def test_memory_is_bounded(self) -> None:
        """What is kept of an answer has a bound, texts and logprobs alike."""
        self.patch(module, "LONGEST_ANSWER", 10_000)
        logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
        for piece in (chunk({"content": "a"}), chunk({}, logprobs=logprobs), chunk(call(0, "a"))):
            with self.assertRaises(BrokenStream):
                assembled(Api.CHAT, *[piece] * 200, DONE)


class NamedEventsTests(SynchronousTestCase):
    def test_response_is_completed_as_the_server_would(self) -> None:
        """What llama-server leaves out of its last event is filled in; a failed one stays so."""
        response = {"status": "completed", "created_at": 7, "output": [{"type": "reasoning"}]}
        found = assembled(Api.RESPONSES, event({"response": response}, "response.completed"))
        self.assertEqual(found["completed_at"], 7)
        self.assertEqual(found["output"], [{"type": "reasoning", "status": "completed"}])
        failed = {"status": "failed", "output": []}
        found = assembled(Api.RESPONSES, event({"response": failed}, "response.failed"))
        self.assertEqual(found, failed)

    def test_message_of_several_blocks(self) -> None:
        """Blocks come together by index; a tool's input is decoded; pings are passed over."""
        said = [
            ("message_start", {"message": {"id": "m", "usage": {"input_tokens": 3}}}),
            ("ping", {}),
            ("content_block_start", {"index": 1, "content_block": {"type": "tool_use"}}),
            ("content_block_start", {"index": 0, "content_block": {"type": "text", "text": ""}}),
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "a"}}),
            ("content_block_delta", {"index": 1, "delta": {"partial_json": '{"a"'}}),
            ("content_block_delta", {"index": 1, "delta": {"partial_json": ":1}"}}),
            ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": "b"}}),
            ("message_delta", {"delta": {"stop_reason": "x"}, "usage": {"output_tokens": 4}}),
            ("message_stop", {}),
        ]
        found = assembled(Api.MESSAGES, *[event(data, name) for name, data in said])
        blocks = [{"type": "text", "text": "ab"}, {"type": "tool_use", "input": {"a": 1}}]
        usage = {"input_tokens": 3, "output_tokens": 4}
        expected = {"id": "m", "usage": usage, "stop_reason": "x", "content": blocks}
        self.assertEqual(found, expected)


class AsStreamTests(SynchronousTestCase):
    def changed(self, api: Api, **request: Any) -> Any:
        asked = read(api, json.dumps(request).encode())
        members = as_stream(api, asked.members, asked.facts)
        return members and {name: json.loads(bytes(raw)) for name, raw in members.items()}

    def test_what_is_changed(self) -> None:
        """A stream is asked for, with usage where it must be asked for; the rest is as it came."""
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        self.assertEqual(self.changed(Api.CHAT, model="m", n=2), {"model": "m", "n": 2, **usage})
        self.assertEqual(self.changed(Api.COMPLETIONS, stream=False), usage)
        for api in (Api.RESPONSES, Api.MESSAGES):
            self.assertEqual(self.changed(api, model="m"), {"model": "m", "stream": True})
        self.assertFalse(self.changed(Api.CHAT, return_progress=True)["return_progress"])

    def test_what_is_left_as_it_is(self) -> None:
        """Requests that a stream answers with less, and APIs without streams, are not changed."""
        left: list[dict[str, Any]] = [{"tools": [{}]}, {"stop": ["x"]}]
        for more in left:
            self.assertIsNone(self.changed(Api.CHAT, logprobs=True, **more))
            self.assertIsNone(self.changed(Api.COMPLETIONS, n_probs=1, **more))
            self.assertIsNotNone(self.changed(Api.CHAT, **more))
        self.assertIsNone(self.changed(Api.CHAT, verbose=True))
        odd: list[Any] = [[{"role": "assistant", "content": "a"}], [], "x", ["x"], None]
        for messages in odd:
            self.assertIsNotNone(self.changed(Api.CHAT, messages=messages))
        parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
        for api in (Api.CHAT, Api.MESSAGES):
            for begun in ({"content": parts}, {"content": "a", "reasoning_content": "b"}):
                asked = [{"role": "assistant", **begun}]
                self.assertIsNone(self.changed(api, messages=asked))
        self.assertIsNone(self.changed(Api.EMBEDDINGS, input="x"))
