"""The double's model: tokens, deterministic words, and llama-server's shapes of an answer."""

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from itertools import islice
from struct import pack
from typing import Any
from zlib import crc32

from attrs import frozen

FINGERPRINT = "b11549-double"
CREATED = 1795339007
WORDS = (
    *("mesh", "node", "route", "token", "model", "gpu", "queue", "port", "hello", "world", "red"),
    *(
        "blue",
        "green",
        "they",
        "there",
        "when",
        "what",
        "with",
        "from",
        "have",
        "this",
        "can",
        "to",
    ),
)
_TOKEN = re.compile(r" ?\w{1,4}|\W")


def tokens(text: str) -> list[str]:
    """Pieces of at most four letters; the same text always gives the same pieces."""
    return _TOKEN.findall(text)


def words(text: str) -> Iterator[str]:
    """What the model says after `text`, word by word, for ever.

    Going on from `text + said` gives exactly the rest: so does llama-server at temperature 0.
    """
    state = crc32(text.encode())
    while True:
        word = " " + WORDS[state % len(WORDS)]
        yield word
        state = crc32(word.encode(), state)


def render(messages: list[dict[str, Any]]) -> str:
    """The chat template; a last message of the assistant is left open, to be continued."""
    text = "".join(
        f"<|im_start|>{m['role']}\n{_text(m.get('content'))}<|im_end|>\n" for m in messages
    )
    if messages and messages[-1]["role"] == "assistant":
        return text.removesuffix("<|im_end|>\n")
    return text + "<|im_start|>assistant\n"


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def says(messages: list[dict[str, Any]], count: int) -> str:
    """The first `count` words of the answer to `messages`, for tests to compare with."""
    return "".join(islice(words(render(messages)), count))


@frozen
class Tally:
    """What one request cost; `cached` of the `prompt` tokens were in its slot already."""

    prompt: int
    cached: int
    predicted: int
    prompt_ms: float
    predicted_ms: float

    def usage(self) -> dict[str, Any]:
        return {
            "completion_tokens": self.predicted,
            "prompt_tokens": self.prompt,
            "total_tokens": self.prompt + self.predicted,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        }

    def timings(self) -> dict[str, Any]:
        read = self.prompt - self.cached
        return {
            "cache_n": self.cached,
            "prompt_n": read,
            "prompt_ms": self.prompt_ms,
            "prompt_per_token_ms": self.prompt_ms / read if read else 0.0,
            "prompt_per_second": read / self.prompt_ms * 1000 if self.prompt_ms else 0.0,
            "predicted_n": self.predicted,
            "predicted_ms": self.predicted_ms,
            "predicted_per_token_ms": self.predicted_ms / self.predicted if self.predicted else 0.0,
            "predicted_per_second": self.predicted / self.predicted_ms * 1000
            if self.predicted_ms
            else 0.0,
        }


@frozen
class Chat:
    """The shapes of `/v1/chat/completions`; `prefix` is the assistant's text that is continued."""

    id: str
    model: str
    usage: bool = False
    prefix: str = ""

    def first(self) -> list[dict[str, Any]]:
        return [self._delta({"role": "assistant", "content": None})]

    def word(self, text: str) -> dict[str, Any]:
        return self._delta({"content": text})

    def progress(self, done: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.first()[0], "prompt_progress": done}

    def last(self, reason: str, tally: Tally) -> list[dict[str, Any]]:
        end = self._delta({}, reason)
        if not self.usage:
            return [{**end, "timings": tally.timings()}]
        counted = {"usage": tally.usage(), "timings": tally.timings()}
        return [end, {"choices": [], **self._tail(), **counted}]

    def whole(self, text: str, reason: str, tally: Tally) -> dict[str, Any]:
        message = {"role": "assistant", "content": self.prefix + text}
        return {
            "choices": [{"finish_reason": reason, "index": 0, "message": message}],
            **self._tail("chat.completion"),
            "usage": tally.usage(),
            "timings": tally.timings(),
        }

    def _delta(self, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"finish_reason": reason, "index": 0, "delta": delta}], **self._tail()}

    def _tail(self, kind: str = "chat.completion.chunk") -> dict[str, Any]:
        return {
            "created": CREATED,
            "id": self.id,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "object": kind,
        }


@frozen
class Text:
    """The shapes of `/v1/completions`: no first role, usage always in the last event."""

    id: str
    model: str

    def first(self) -> list[dict[str, Any]]:
        return []

    def word(self, text: str) -> dict[str, Any]:
        return self._choice(text, None)

    def progress(self, done: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.word(""), "prompt_progress": done}

    def last(self, reason: str, tally: Tally) -> list[dict[str, Any]]:
        return [self.whole("", reason, tally)]

    def whole(self, text: str, reason: str, tally: Tally) -> dict[str, Any]:
        return {**self._choice(text, reason), "usage": tally.usage(), "timings": tally.timings()}

    def _choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {
            "choices": [{"text": text, "index": 0, "logprobs": None, "finish_reason": reason}],
            "created": CREATED,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "object": "text_completion",
            "id": self.id,
        }


def embeddings(texts: list[str], model: str, base64: bool) -> dict[str, Any]:
    """The answer of `/v1/embeddings`: 64 figures a text, the same for the same text."""
    count = sum(len(tokens(text)) for text in texts)
    return {
        "model": model,
        "object": "list",
        "usage": {"prompt_tokens": count, "total_tokens": count},
        "data": [_embedding(text, index, base64) for index, text in enumerate(texts)],
    }


def _embedding(text: str, index: int, base64: bool) -> dict[str, Any]:
    figures = [crc32(f"{n}{text}".encode()) / 2**32 - 0.5 for n in range(64)]
    if not base64:
        return {"embedding": figures, "index": index, "object": "embedding"}
    packed = b64encode(pack("<64f", *figures)).decode()
    return {"embedding": packed, "index": index, "object": "embedding", "encoding_format": "base64"}
