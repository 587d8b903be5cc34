"""A broken chat is gone on with from what was delivered, or, where that cannot be, not at all."""

import json
from typing import Any

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core import rescue as module
from rolemesh.core.openai import Api
from rolemesh.core.rescue import Rescue, Splice, eligible
from rolemesh.core.sse import BrokenStream, Splitter

HELLO = {"role": "user", "content": "hello"}
HEAD = {"id": "first", "created": 1, "model": "m"}
DONE = b"data: [DONE]\n\n"


def chunk(delta: Any, reason: str | None = None, **head: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return f"data: {json.dumps({'choices': [choice], **HEAD, **head})}\n\n".encode()


ROLE = chunk({"role": "assistant", "content": None})


def members(**given: Any) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(json.dumps(value).encode()) for name, value in given.items()}


def said(stream: bytes) -> list[Any]:
    events = Splitter().feed(stream)
    return [event.data if event.data == b"[DONE]" else json.loads(event.data) for event in events]


def after(*pieces: bytes) -> Rescue:
    rescue = Rescue()
    for piece in pieces:
        rescue.feed(piece)
    return rescue


class EligibleTests(SynchronousTestCase):
    plain = {"stream": True, "messages": [HELLO], "temperature": 0}

    def test_plain_streamed_chat(self) -> None:
        """A streamed chat of one choice and free text may be rescued, with tools on offer too."""
        begun = {"role": "assistant", "content": "The"}
        fine: list[dict[str, Any]] = [
            {},
            {"n": 1, "tools": [{}], "tool_choice": "auto", "logprobs": False},
            {"response_format": {"type": "text"}, "stop": ["x"], "max_tokens": 9},
            {"messages": [HELLO, begun]},
        ]
        for more in fine:
            self.assertTrue(eligible(Api.CHAT, {**self.plain, **more}), more)

    def test_what_may_not_be(self) -> None:
        """No schema, grammar, forced tool, several choices or logprobs; no other API; no stream."""
        calling = {"role": "assistant", "content": "", "tool_calls": [{}]}
        refused: list[dict[str, Any]] = [
            {"stream": False},
            {"n": 2},
            {"tool_choice": "required"},
            {"tool_choice": {"type": "function"}},
            {"grammar": "root ::= x"},
            {"json_schema": {"type": "object"}},
            {"response_format": {"type": "json_object"}},
            {"logprobs": True},
            {"n_probs": 2},
            {"add_generation_prompt": False},
            {"messages": []},
            {"messages": "hi"},
            {"messages": [HELLO, calling]},
            {"messages": [HELLO, {"role": "assistant", "content": [{"type": "text"}]}]},
        ]
        for more in refused:
            self.assertFalse(eligible(Api.CHAT, {**self.plain, **more}), more)
        self.assertFalse(eligible(Api.MESSAGES, self.plain))


class RescueTests(SynchronousTestCase):
    def test_only_whole_events_pass(self) -> None:
        """Whatever the pieces, no half event reaches the client, and nothing is lost."""
        for ends in (b"\n", b"\r\n", b"\r"):
            stream = (ROLE + chunk({"content": "a"}) + chunk({}, "stop") + DONE).replace(
                b"\n", ends
            )
            rescue, passed = Rescue(), b""
            for at in range(len(stream)):
                passed += rescue.feed(stream[at : at + 1])
                self.assertTrue(not passed or passed.endswith(ends * 2))
            self.assertEqual(passed, stream)

    def test_possible_from_the_first_event_to_the_last(self) -> None:
        """There is something to go on with from the first event until the answer says its end."""
        self.assertFalse(after(b": ping\n\n").possible)
        self.assertTrue(after(ROLE).possible)
        self.assertTrue(after(ROLE, chunk({"content": "a"})[:-1]).possible)
        self.assertFalse(after(ROLE, chunk({}, "stop")).possible)
        self.assertFalse(after(ROLE, DONE).possible)

    def test_other_than_text_is_not_rescued(self) -> None:
        """Begun tool calls, reasoning and what cannot be read end the chance, not the relay."""
        call = {"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}
        for piece in (chunk(call), chunk({"reasoning_content": "hm"}), b"data: {\n\n"):
            rescue = after(ROLE)
            self.assertEqual(rescue.feed(piece + b"data: {"), piece)
            self.assertFalse(rescue.possible)
            self.assertEqual(rescue.feed(b"}\n\n"), b"data: {}\n\n")

    def test_text_is_bounded(self) -> None:
        """Beyond a bound no text is kept, and none is rescued."""
        self.patch(module, "LONGEST_TEXT", 20)
        self.assertTrue(after(ROLE, *[chunk({"content": "0123456789"})] * 2).possible)
        self.assertFalse(after(ROLE, *[chunk({"content": "0123456789"})] * 3).possible)

    def test_continuation(self) -> None:
        """The text delivered is the assistant's last message; limits shrink by what was spent."""
        rescue = after(ROLE, chunk({"content": " a"}), chunk({"content": " b"}), b'data: {"cho')
        asked = members(messages=[HELLO], max_tokens=10, n_predict=-1, top_k=3)
        found = rescue.continuation(asked).members
        text = {"role": "assistant", "content": " a b"}
        self.assertEqual(json.loads(bytes(found["messages"])), [HELLO, text])
        numbers = {name: json.loads(bytes(found[name])) for name in found if name != "messages"}
        self.assertEqual(numbers, {"max_tokens": 8, "n_predict": -1, "top_k": 3})

    def test_continuation_of_a_continued_message(self) -> None:
        """A message that the client itself began stays one message."""
        rescue = after(ROLE, chunk({"content": " b"}))
        asked = members(messages=[HELLO, {"role": "assistant", "content": "a", "name": "x"}])
        found = json.loads(bytes(rescue.continuation(asked).members["messages"]))
        self.assertEqual(found, [HELLO, {"role": "assistant", "content": "a b", "name": "x"}])

    def test_nothing_delivered_is_asked_again(self) -> None:
        """Before the first word the very request is repeated: an empty message is no beginning."""
        asked = members(messages=[HELLO], max_tokens=10)
        self.assertEqual(after(ROLE).continuation(asked).members, asked)


class SpliceTests(SynchronousTestCase):
    second: dict[str, Any] = {
        "id": "second",
        "created": 2,
        "model": "n",
        "system_fingerprint": "b2",
    }

    def spliced(self, splice: Splice, *deltas: bytes, usage: Any = None) -> list[Any]:
        last = f"data: {json.dumps({'choices': [], 'usage': usage, **self.second})}\n\n".encode()
        role = chunk({"role": "assistant", "content": None}, **self.second)
        return said(splice.feed(role + b"".join(deltas) + last + DONE))

    def test_one_answer(self) -> None:
        """The rest comes under the first id, with no second role and the sum of the counts."""
        splice = (
            after(ROLE, chunk({"content": " a"})).continuation(members(messages=[HELLO])).splice
        )
        counts = {"prompt_tokens": 26, "completion_tokens": 3, "total_tokens": 29}
        word = chunk({"content": " b"}, **self.second)
        end = chunk({}, "stop", **self.second)
        first, last, usage, done = self.spliced(splice, word, end, usage=counts)
        self.assertEqual(first["choices"][0]["delta"], {"content": " b"})
        self.assertEqual(last["choices"][0]["finish_reason"], "stop")
        for each in (first, last, usage):
            self.assertEqual({name: each[name] for name in HEAD}, HEAD)
        expected = {"prompt_tokens": 25, "completion_tokens": 4, "total_tokens": 29}
        self.assertEqual((usage["usage"], done), (expected, b"[DONE]"))

    def test_only_the_end_is_missing(self) -> None:
        """With all tokens delivered, the one that the server cannot help making is left out."""
        rescue = after(ROLE, chunk({"content": " a"}), chunk({"content": " b"}))
        continuation = rescue.continuation(members(messages=[HELLO], max_tokens=2))
        self.assertEqual(bytes(continuation.members["max_tokens"]), b"1")
        counts = {"prompt_tokens": 27, "completion_tokens": 1, "total_tokens": 28}
        word = chunk({"content": " c"}, **self.second)
        end = chunk({}, "length", **self.second)
        last, usage, _ = self.spliced(continuation.splice, word, end, usage=counts)
        self.assertEqual(last["choices"][0]["finish_reason"], "length")
        expected = {"prompt_tokens": 25, "completion_tokens": 2, "total_tokens": 27}
        self.assertEqual(usage["usage"], expected)

    def test_errors_and_tool_calls_pass(self) -> None:
        """What else the second server says goes on to the client."""
        splice = Splice(HEAD, 1, False)
        call = chunk({"tool_calls": [{"index": 0}]}, **self.second)
        (found,) = said(splice.feed(call))
        self.assertEqual(found["choices"][0]["delta"], {"tool_calls": [{"index": 0}]})
        self.assertEqual(
            said(splice.feed(b'data: {"error":{"code":500}}\n\n'))[0]["error"]["code"], 500
        )

    def test_no_chat(self) -> None:
        """A second stream that is no chat's breaks as any other."""
        for data in (b"{", b"7", b'{"choices":[{}]}'):
            with self.assertRaises(BrokenStream):
                Splice(HEAD, 1, False).feed(b"data: " + data + b"\n\n")
