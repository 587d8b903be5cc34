"""What is cached where: conversations by the hashes of their growing prefixes, and forgetful.

A backend keeps the KV cache of about as many conversations as it has slots. Tokens are estimated
from bytes; what the backends report of their caches corrects the belief.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec
from attrs import define, field, frozen

from rolemesh.core.model import BackendId
from rolemesh.core.openai import Api, Ask

BYTES_PER_TOKEN = 4
BLOCK = 1024  # bytes of a plain prompt that are hashed together
LONGEST_CHAIN = 512
CONVERSATIONS = 64  # remembered of one backend at the most
SESSIONS = 10_000
UNSURE_SLOTS = 4  # where a backend has not said how many it has
HALF_LIFE = 300.0  # seconds after which a silent conversation is worth half as much
SAME_SESSION = 1  # tokens: enough to decide between equals

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
    """A request's text as hashes of its growing prefixes, each with its length in tokens."""

    session: str | None
    links: tuple[tuple[bytes, int], ...] = field(repr=False)

    @property
    def tokens(self) -> int:
        return self.links[-1][1] if self.links else 0


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
    """The prefixes of what a request gives a model to read."""
    links, hashed, size = [], b"", 0
    for part in _parts(ask):
        size += len(part)
        hashed = blake2b(hashed + part, digest_size=12).digest()
        links.append((hashed, size // BYTES_PER_TOKEN + 1))
        if len(links) == LONGEST_CHAIN:
            break
    return Chain(session, tuple(links))


def _parts(ask: Ask) -> Iterable[bytes]:
    facts = ask.facts
    for name in ("tools", "system", "instructions"):
        if facts.get(name):
            yield msgspec.json.encode(facts[name])
    if ask.api in (Api.CHAT, Api.MESSAGES, Api.COUNT_TOKENS, Api.APPLY_TEMPLATE):
        yield from _pieces(facts.get("messages"))
    elif ask.api is Api.RESPONSES:
        yield from _pieces(facts.get("input"))
    elif ask.api in (Api.COMPLETIONS, Api.INFILL):
        yield from _pieces(facts.get("prompt") or facts.get("input_prefix"))


def _pieces(value: Any) -> Iterable[bytes]:
    if isinstance(value, list):
        yield from (msgspec.json.encode(each) for each in value)
    elif isinstance(value, str):
        text = value.encode("utf-8", "replace")
        yield from (text[start : start + BLOCK] for start in range(0, len(text), BLOCK))


@define(eq=False)
class _Held:
    """What one backend is believed to hold: conversations, the latest used last."""

    conversations: OrderedDict[bytes, tuple[Chain, float]] = field(factory=OrderedDict)
    links: Counter[bytes] = field(factory=Counter)

    def add(self, chain: Chain, now: float) -> None:
        for leaf in [link for link, _ in chain.links if link in self.conversations]:
            self.drop(leaf)
        self.conversations[chain.links[-1][0]] = (chain, now)
        self.links.update(link for link, _ in chain.links)
        while len(self.conversations) > CONVERSATIONS:
            self.drop(next(iter(self.conversations)))

    def drop(self, leaf: bytes) -> None:
        chain, _ = self.conversations.pop(leaf)
        self.links.subtract(link for link, _ in chain.links)
        self.links += Counter()  # forgets those that nobody holds any more

    def prefix(self, chain: Chain) -> int:
        for link, tokens in reversed(chain.links):
            if link in self.links:
                return tokens
        return 0

    def continues(self, chain: Chain) -> bool:
        return any(link in self.conversations for link, _ in chain.links)

    def oldest_worth(self, slots: int, now: float) -> int:
        """The tokens that a new conversation would push out, the less the longer they lay."""
        if len(self.conversations) < slots:
            return 0
        kept = list(self.conversations.values())[-slots:]
        chain, used = kept[0]
        return int(chain.tokens * 0.5 ** ((now - used) / HALF_LIFE))


class Memory:
    """What the backends are believed to hold, and which one a session used last."""

    def __init__(self) -> None:
        self._held: dict[BackendId, _Held] = {}
        self._sessions: OrderedDict[str, BackendId] = OrderedDict()

    def cached(self, id: BackendId, chain: Chain, slots: int | None, now: float) -> tuple[int, int]:
        """The tokens of `chain` that a backend holds, and those of another conversation that it
        would forget for it."""
        held = self._held.get(id)
        session = chain.session is not None and self._sessions.get(chain.session) == id
        if held is None:
            return (SAME_SESSION if session else 0), 0
        tokens = held.prefix(chain)
        if session:
            tokens = max(tokens, SAME_SESSION)
        if held.continues(chain):
            return tokens, 0
        return tokens, held.oldest_worth(slots or UNSURE_SLOTS, now)

    def placed(self, id: BackendId, chain: Chain, now: float) -> None:
        """A request with this text is being read there."""
        if chain.links:
            self._held.setdefault(id, _Held()).add(chain, now)
        if chain.session is not None:
            self._sessions[chain.session] = id
            self._sessions.move_to_end(chain.session)
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)

    def forget(self, id: BackendId) -> None:
        """A backend holds nothing any more."""
        self._held.pop(id, None)


def paid(believed: int, found: int) -> bool:
    """Whether a cache was about as good as believed; estimates from bytes are rough."""
    return believed <= 256 or found * 4 >= believed
