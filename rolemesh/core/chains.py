"""A request's text as hashes of its growing prefixes, and whose conversation it is.

Tokens are estimated from bytes.
"""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from itertools import chain as chained
from itertools import islice, takewhile
from typing import Any

import msgspec
from attrs import field, frozen

from rolemesh.core.openai import Api, Ask

BYTES_PER_TOKEN = 4
BLOCK = 1024  # bytes of a plain prompt that are hashed together
LONGEST_CHAIN = 512

SESSION_HEADERS = (
    "x-session-affinity",
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "thread-id",
    "x-opencode-session",
    "x-litellm-session-id",
    "x-openwebui-chat-id",
)


@frozen
class Chain:
    """A request's text as hashes of its growing prefixes, each with its length in tokens.

    The first `opening` links are tools and system prompts, which many conversations may share.
    """

    session: str | None
    links: tuple[tuple[bytes, int], ...] = field(repr=False)
    opening: int = 0

    @property
    def tokens(self) -> int:
        return self.links[-1][1] if self.links else 0

    @property
    def party(self) -> bytes | str | None:
        """Whom a turn in a queue is fair to: those who begin alike, as one agent's fan-out does,
        whatever sessions it names; else the session."""
        return self.links[self.opening - 1][0] if self.opening else self.session

    @property
    def turns(self) -> int:
        """About how often the conversation has gone on, and may be expected to go on."""
        return max(1, (len(self.links) - self.opening + 1) // 2)

    def goes_on(self, other: "Chain", shared: int) -> bool:
        """Whether this is `other`, later or told anew, when they share so many links."""
        apart = self.session and other.session and self.session != other.session
        return shared > self.opening and (not apart or shared == len(other.links))


def session_of(headers: Mapping[str, str], facts: Mapping[str, Any]) -> str | None:
    """The client's own name for its conversation or agent run, where it tells one."""
    for name in SESSION_HEADERS:
        if headers.get(name):
            return headers[name][:256]
    key = facts.get("prompt_cache_key")
    if not isinstance(key, str):
        metadata = facts.get("metadata")
        key = metadata.get("user_id") if isinstance(metadata, dict) else None
    return key[:256] if isinstance(key, str) and key else None


def chain_of(ask: Ask, session: str | None) -> Chain:
    """The prefixes of what a request gives a model to read; none where no model reads it."""
    if ask.api not in _TEXT:
        return Chain(session, ())
    opening, text = _parted(ask.facts, _TEXT[ask.api])
    links, hashed, size = [], b"", 0
    for part in islice(chained(opening, _pieces(text)), LONGEST_CHAIN):
        size += len(part)
        hashed = blake2b(hashed + part, digest_size=12).digest()
        links.append((hashed, size // BYTES_PER_TOKEN + 1))
    return Chain(session, tuple(links), len(opening))


_TEXT = {
    Api.CHAT: "messages",
    Api.MESSAGES: "messages",
    Api.RESPONSES: "input",
    Api.COMPLETIONS: "prompt",
    Api.INFILL: "input_prefix",
}


def _parted(facts: Mapping[str, Any], name: str) -> tuple[list[bytes], Any]:
    """The tools and system prompts of a request, and the text that follows them."""
    opening = [facts[told] for told in ("tools", "system", "instructions") if facts.get(told)]
    text = facts.get(name)
    if isinstance(text, list):
        first = list(takewhile(_is_system, text))
        opening, text = opening + first, text[len(first) :]
    return [_encoded(each) for each in opening], text


def _is_system(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") in ("system", "developer")


def _pieces(value: Any) -> Iterable[bytes]:
    if isinstance(value, list):
        yield from map(_encoded, value)
    elif isinstance(value, str):
        text = value.encode("utf-8", "replace")
        yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


def _encoded(value: Any) -> bytes:
    """JSON, without the marks that clients move from message to message as they go on."""
    encoded = msgspec.json.encode(value)
    return msgspec.json.encode(_unmarked(value)) if b'"cache_control"' in encoded else encoded


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    if isinstance(value, dict):
        return {key: _unmarked(each) for key, each in value.items() if key != "cache_control"}
    return value
