"""A real llama.cpp server goes on with a broken chat exactly where another one stopped."""

import json
from typing import Any

from rolemesh.core.openai import Api, read
from rolemesh.core.rescue import Rescue, eligible
from tests.real.harness import RealTestCase, ask

URL = Api.CHAT.value
REQUEST = {
    "messages": [{"role": "user", "content": "hello world"}],
    "max_tokens": 24,
    "temperature": 0,
    "stream": True,
    "stream_options": {"include_usage": True},
}


def chunks(stream: bytes) -> list[dict[str, Any]]:
    lines = [line for line in stream.split(b"\n\n") if line.startswith(b"data: {")]
    return [json.loads(line[6:]) for line in lines]


def told(stream: bytes) -> tuple[Any, ...]:
    """What a client makes of a stream: ids, roles, text, reasons and tokens."""
    found = chunks(stream)
    choices = [choice for chunk in found for choice in chunk["choices"]]
    usage = {**found[-1]["usage"]}
    usage.pop("prompt_tokens_details")
    return (
        len({chunk["id"] for chunk in found}),
        sum("role" in choice["delta"] for choice in choices),
        "".join(choice["delta"].get("content") or "" for choice in choices),
        [choice["finish_reason"] for choice in choices if choice["finish_reason"]],
        usage,
        stream.endswith(b"data: [DONE]\n\n"),
    )


class RescueTests(RealTestCase):
    url: str

    @classmethod
    def furnish(cls) -> None:
        cls.url = cls.workshop.llama_server(cls.workshop.model()).url

    def rescued(self, request: dict[str, Any], stream: bytes, cut: int) -> bytes:
        """What a client receives when the first server dies after `cut` bytes of its stream."""
        asked = read(Api.CHAT, json.dumps(request).encode())
        self.assertTrue(eligible(Api.CHAT, asked.facts))
        rescue = Rescue()
        received = rescue.feed(stream[:cut])
        self.assertTrue(rescue.possible)
        continuation = rescue.continuation(asked.members)
        body = {name: json.loads(bytes(raw)) for name, raw in continuation.members.items()}
        second = ask(self.url + URL, body)
        self.assertEqual(second.status, 200, second.body)
        return received + continuation.splice.feed(second.body)

    def check(self, **more: Any) -> None:
        request = {**REQUEST, **more}
        stream = ask(self.url + URL, request).body
        events = stream.split(b"\n\n")
        end = next(at for at, event in enumerate(events) if b'"finish_reason":"' in event)
        for whole in range(1, end + 1):
            cut = len(b"\n\n".join(events[:whole])) + 2 + 17 * (whole % 3)
            self.assertEqual(told(self.rescued(request, stream, cut)), told(stream), whole)

    def test_cut_after_every_token(self) -> None:
        """At temperature 0 the client receives the text and counts of an undisturbed answer."""
        self.check()

    def test_stop_string(self) -> None:
        """A stop string still ends the answer, also when it began before the cut."""
        self.check(stop=[" world on"])

    def test_message_that_the_client_began(self) -> None:
        """A chat whose last message is the assistant's is gone on with as that one message."""
        begun = {"role": "assistant", "content": " green to"}
        self.check(messages=[*REQUEST["messages"], begun])  # type: ignore[misc]
