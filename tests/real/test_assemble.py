"""An answer put together from a real llama.cpp server's stream is the answer it gives itself."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec

from rolemesh.core.assemble import Assembler, as_stream
from rolemesh.core.openai import Api, read
from tests.real.harness import RealTestCase, ask

HELLO = [{"role": "user", "content": "hello world"}]
SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "blue"]}},
    "required": ["color"],
    "additionalProperties": False,
}
FUNCTION = {"name": "pick", "description": "Picks one.", "parameters": SCHEMA}
CHAT_TOOLS = {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}
RESPONSES_TOOLS = {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required"}
MESSAGES_TOOLS = {
    "tools": [{"name": "pick", "description": "Picks one.", "input_schema": SCHEMA}],
    "tool_choice": {"type": "any"},
}
WITH_THOUGHT = (
    "}}{% if m['reasoning_content'] %}{{ '<think>\n' + m['reasoning_content'] + '\n</think>\n\n' }}"
    "{% endif %}{{ (m['content'] or '')"
)
THINK_AND_SAY = r'''root ::= " green to\n</think>\n\n" " token they"'''
# Each answer has its own ids and clock; the rest must be equal.
_ID = re.compile(r"^(chatcmpl-|resp_|msg_|rs_|fc_|call_)?[A-Za-z0-9]{32}$")
_CLOCKED = re.compile(r"^(created|created_at|completed_at|.*_ms|.*_per_second)$")


def comparable(value: Any) -> Any:
    """An answer with ids and times taken out, but not the fact that they are there."""
    if isinstance(value, dict):
        return {
            name: type(item).__name__ if _CLOCKED.match(name) else comparable(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if isinstance(value, str) and (found := _ID.match(value)):
        return f"{found[1]}ID"
    return value


class AssembleTestCase(RealTestCase):
    url: str

    def whole(self, api: Api, request: Mapping[str, Any]) -> dict[str, Any]:
        answer = ask(self.url + api.value, request)
        self.assertEqual(answer.status, 200, answer.body)
        found: dict[str, Any] = answer.json()
        return found

    def assembled(self, api: Api, request: Mapping[str, Any]) -> dict[str, Any]:
        asked = read(api, json.dumps(request).encode())
        members = as_stream(api, asked.members, asked.facts)
        assert members is not None
        body = msgspec.json.decode(msgspec.json.encode(members))
        stream = ask(self.url + api.value, body)
        self.assertEqual(stream.headers["content-type"], "text/event-stream", stream.body)
        assembler = Assembler(api, asked.facts)
        for at in range(0, len(stream.body), 700):
            assembler.feed(stream.body[at : at + 700])
        found: dict[str, Any] = json.loads(assembler.finish())
        return found

    def same(self, api: Api, **request: Any) -> dict[str, Any]:
        """Compare both ways of asking; the answer that the server gave itself."""
        request = {"temperature": 0, "seed": 7, **request}
        self.whole(api, request)  # so that both find the prompt in the cache
        whole = self.whole(api, request)
        self.assertEqual(comparable(self.assembled(api, request)), comparable(whole))
        return whole

    def chat(self, **request: Any) -> Any:
        return self.same(Api.CHAT, messages=HELLO, **request)["choices"][0]

    def completion(self, **request: Any) -> Any:
        return self.same(Api.COMPLETIONS, **request)["choices"]

    def response(self, **request: Any) -> Any:
        return self.same(Api.RESPONSES, input="hello world", **request)["output"]

    def message(self, **request: Any) -> Any:
        return self.same(Api.MESSAGES, messages=HELLO, **request)["content"]


def thinking_model(folder: Path) -> Path:
    """The tiny model with a template that opens a thought, as reasoning models' templates do."""
    from rolemesh.demo import vocabulary
    from rolemesh.demo.model import write_tiny_model

    template = vocabulary.TEMPLATE.replace("+ (m['content'] or '')", WITH_THOUGHT)
    template = template.replace("assistant\n' }}{% endif %}", "assistant\n<think>\n' }}{% endif %}")
    with mock.patch.object(vocabulary, "TEMPLATE", template):
        return write_tiny_model(folder / "thinking.gguf")


class AssembleTests(AssembleTestCase):
    @classmethod
    def furnish(cls) -> None:
        cls.url = cls.workshop.llama_server(cls.workshop.model()).url

    def test_chat(self) -> None:
        """A plain chat, to its token limit."""
        self.assertEqual(self.chat(max_tokens=20)["finish_reason"], "length")

    def test_chat_of_200_events(self) -> None:
        """A long chat, with the fields that make a stream say more left out of it."""
        self.chat(max_tokens=200, timings_per_token=True, return_progress=True)

    def test_chat_stop(self) -> None:
        """A chat that a stop string ends, also before its first word."""
        self.assertEqual(self.chat(max_tokens=30, stop=[" they"])["finish_reason"], "stop")
        self.assertEqual(self.chat(max_tokens=30, stop=[" green"])["message"]["content"], "")

    def test_chat_logprobs(self) -> None:
        """The logprobs of each token, both ways of asking for them."""
        found = self.chat(max_tokens=5, logprobs=True, top_logprobs=2)
        self.assertEqual(len(found["logprobs"]["content"]), 5)
        self.chat(max_tokens=3, n_probs=2, post_sampling_probs=True)

    def test_chat_n(self) -> None:
        """Several choices at once, and the usage of the first of them."""
        found = self.same(Api.CHAT, messages=HELLO, max_tokens=6, n=2)
        self.assertEqual([choice["index"] for choice in found["choices"]], [0, 1])

    def test_chat_schema(self) -> None:
        """Structured output."""
        schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}
        found = self.chat(max_tokens=200, response_format=schema)
        self.assertIn("color", json.loads(found["message"]["content"]))

    def test_chat_tools(self) -> None:
        """A tool call, whole and cut by the token limit in its arguments."""
        found = self.chat(max_tokens=200, **CHAT_TOOLS)
        self.assertEqual(found["finish_reason"], "tool_calls")
        self.assertEqual(self.chat(max_tokens=38, **CHAT_TOOLS)["finish_reason"], "length")

    def test_half_a_tool_calls_markup_is_not_in_a_stream(self) -> None:
        """Cut before its name is out, a call is text to the server, and nothing in its stream."""
        request = {"messages": HELLO, "max_tokens": 3, "temperature": 0, **CHAT_TOOLS}
        whole = self.whole(Api.CHAT, request)["choices"][0]
        assembled = self.assembled(Api.CHAT, request)["choices"][0]
        self.assertTrue(whole["message"].pop("content").startswith("<tool_call>"))
        self.assertEqual(assembled["message"].pop("content"), "")
        self.assertEqual(assembled, whole)

    def test_completions(self) -> None:
        """A plain text completion, with a limit, with a stop string, and of several prompts."""
        self.completion(prompt="hello", max_tokens=8)
        self.assertEqual(self.completion(prompt="hello", stop=[" an"])[0]["text"], "")
        self.completion(prompt="hello", max_tokens=8, n=2)
        found = self.completion(prompt=["hello", "the world", "node"], max_tokens=4)
        self.assertEqual(len(found), 3)

    def test_completions_logprobs(self) -> None:
        """The probabilities of each token, both ways of asking for them."""
        found = self.completion(prompt="hello", max_tokens=4, logprobs=2)
        self.assertEqual(len(found[0]["logprobs"]["content"]), 4)
        self.completion(prompt="hello", max_tokens=4, n_probs=2, post_sampling_probs=True)

    def test_responses(self) -> None:
        """A response of text, of nothing, and of a tool call, whole and cut."""
        self.assertEqual(self.response(max_output_tokens=8)[0]["type"], "message")
        self.assertEqual(self.response(max_output_tokens=8, stop=[" green"]), [])
        (call,) = self.response(max_output_tokens=200, **RESPONSES_TOOLS)
        self.assertEqual(call["type"], "function_call")
        self.response(max_output_tokens=38, **RESPONSES_TOOLS)

    def test_messages(self) -> None:
        """A message of text, of nothing, and of a tool's use, whole and cut."""
        self.assertEqual(self.message(max_tokens=8)[0]["type"], "text")
        self.message(max_tokens=30, stop_sequences=[" they"])
        self.assertEqual(self.message(max_tokens=8, stop_sequences=[" green"]), [])
        (use,) = self.message(max_tokens=200, **MESSAGES_TOOLS)
        self.assertEqual(use["type"], "tool_use")
        self.assertIn("color", use["input"])
        (use,) = self.message(max_tokens=38, **MESSAGES_TOOLS)
        self.assertEqual(use["input"], {})

    def test_what_a_stream_would_not_say_is_not_asked_as_one(self) -> None:
        """The server refuses, or answers differently, what `as_stream` leaves as it is."""
        request = {"messages": HELLO, "max_tokens": 40, "logprobs": True, **CHAT_TOOLS}
        asked = read(Api.CHAT, json.dumps(request).encode())
        self.assertIsNone(as_stream(Api.CHAT, asked.members, asked.facts))
        self.assertEqual(ask(self.url + Api.CHAT.value, request).status, 200)
        self.assertEqual(ask(self.url + Api.CHAT.value, {**request, "stream": True}).status, 400)

    def test_an_answer_that_was_begun(self) -> None:
        """What is gone on with is repeated, as it came, before what was added to it."""
        for text in ("green to", " \u00e9\U0001f600 ", "{", "\n", ""):
            for content in (text, [{"type": "text", "text": text}]):
                begun = [*HELLO, {"role": "assistant", "content": content}]
                for more in ({}, {"n": 2}, {"stop": [" to"]}, {"max_tokens": 1}):
                    request = {"messages": begun, "max_tokens": 5, **more}
                    found = self.same(Api.CHAT, **request)["choices"][0]["message"]["content"]
                    self.assertTrue(found.startswith(text), found)
                found = self.same(Api.MESSAGES, messages=begun, max_tokens=5)["content"][0]["text"]
                self.assertTrue(found.startswith(text), found)

    def test_parts_of_an_answer_that_was_begun_are_not_asked_as_a_stream(self) -> None:
        """The server has its own way to join them."""
        parts = [{"type": "text", "text": "green"}, {"type": "text", "text": " to"}]
        request = {"messages": [*HELLO, {"role": "assistant", "content": parts}], "max_tokens": 3}
        asked = read(Api.CHAT, json.dumps(request).encode())
        self.assertIsNone(as_stream(Api.CHAT, asked.members, asked.facts))
        content = self.whole(Api.CHAT, request)["choices"][0]["message"]["content"]
        self.assertFalse(content.startswith("green to"), content)


class ReasoningTests(AssembleTestCase):
    @classmethod
    def furnish(cls) -> None:
        cls.url = cls.workshop.llama_server(thinking_model(cls.workshop.folder)).url

    def test_chat(self) -> None:
        """Reasoning and content, and reasoning that the token limit cuts."""
        said = self.chat(max_tokens=60, grammar=THINK_AND_SAY)["message"]
        self.assertEqual(said["reasoning_content"], " green to\n")
        self.assertEqual(said["content"], " token they")
        self.assertEqual(self.chat(max_tokens=4)["message"]["content"], "")

    def test_an_answer_that_was_begun(self) -> None:
        """Its text is repeated; with a thought before it, it is not asked as a stream."""
        begun = {"role": "assistant", "content": "green to"}
        for api in (Api.CHAT, Api.MESSAGES):
            self.same(api, messages=[*HELLO, begun], max_tokens=4)
            request = {"messages": [*HELLO, {**begun, "reasoning_content": "can"}], "max_tokens": 4}
            asked = read(api, json.dumps(request).encode())
            self.assertIsNone(as_stream(api, asked.members, asked.facts))
            self.assertIn(b'"can\\n"', ask(self.url + api.value, request).body)

    def test_responses(self) -> None:
        """A reasoning item before the message."""
        found = self.response(max_output_tokens=60, grammar=THINK_AND_SAY)
        self.assertEqual([item["type"] for item in found], ["reasoning", "message"])

    def test_messages(self) -> None:
        """A thinking block, with its signature."""
        (block,) = self.message(max_tokens=5)
        self.assertEqual((block["type"], block["signature"]), ("thinking", ""))
