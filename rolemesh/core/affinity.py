"""What is cached where: conversations by the hashes of their growing prefixes, and forgetful.

A backend keeps the KV cache of about as many conversations as it has slots. Which one a new
conversation pushes out is what llama-server does: the one that begins most like it, if that is
enough alike, else the one that was used least recently. So two conversations with one system
prompt take turns in one slot, each pushing the other out, while another slot stands free; a
conversation that has gone on is worth the more turns. Tokens are estimated from bytes.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import chain as chained
from itertools import islice, takewhile
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
ALIKE = 0.1  # share of a prompt that a slot must hold to be taken before the least recent one
MOST_TURNS = 4  # in which one conversation is thought to push out another
PERHAPS = 0.5  # of what has left the slots, but may be kept in the host's memory
SAME_SESSION = 64  # tokens: more than a free slot elsewhere is worth, less than a prompt

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


@define(eq=False)
class _Held:
    """What one backend is believed to hold: conversations by their last link, the latest used
    last, and of each link those that have it."""

    conversations: OrderedDict[bytes, tuple[Chain, float]] = field(factory=OrderedDict)
    having: dict[bytes, list[bytes]] = field(factory=dict)

    def add(self, chain: Chain, now: float) -> None:
        leaf, shared = self.nearest(chain)
        if leaf is not None and (self._alike(chain, shared) or self._goes_on(chain, leaf, shared)):
            self.drop(leaf)
        last = chain.links[-1][0]
        if last in self.conversations:
            self.drop(last)
        self.conversations[last] = (chain, now)
        for link, _ in chain.links:
            self.having.setdefault(link, []).append(last)
        if len(self.conversations) > CONVERSATIONS:
            self.drop(next(iter(self.conversations)))

    def drop(self, leaf: bytes) -> None:
        chain, _ = self.conversations.pop(leaf)
        for link, _ in chain.links:
            self.having[link].remove(leaf)
            if not self.having[link]:
                del self.having[link]

    def nearest(self, chain: Chain) -> tuple[bytes | None, int]:
        """The conversation that begins most like `chain`, and how many links they share."""
        for shared in range(len(chain.links), 0, -1):
            having = self.having.get(chain.links[shared - 1][0])
            if having:
                return having[-1], shared
        return None, 0

    def cached(self, chain: Chain, slots: int, now: float) -> tuple[int, int]:
        """See `Memory.cached`."""
        leaf, shared = self.nearest(chain)
        tokens = chain.links[shared - 1][1] if shared else 0
        in_slots = list(islice(reversed(self.conversations), slots))
        if leaf is None or leaf not in in_slots:
            return int(tokens * PERHAPS), self._room(in_slots, slots, now)
        if self._goes_on(chain, leaf, shared):
            return tokens, 0
        if self._alike(chain, shared):
            turns = min(self.conversations[leaf][0].turns, MOST_TURNS)
            return tokens, turns * self._worth(leaf, now)
        return tokens, self._room(in_slots, slots, now)

    def _goes_on(self, chain: Chain, leaf: bytes, shared: int) -> bool:
        return chain.goes_on(self.conversations[leaf][0], shared)

    @staticmethod
    def _alike(chain: Chain, shared: int) -> bool:
        return shared > 0 and chain.links[shared - 1][1] > ALIKE * chain.tokens

    def _room(self, in_slots: Sequence[bytes], slots: int, now: float) -> int:
        """The tokens that the least recent slot would forget; of a free one, so many as others are
        taken, for new conversations to spread out."""
        if len(in_slots) < slots:
            return len(in_slots)
        return self._worth(in_slots[-1], now)

    def _worth(self, leaf: bytes, now: float) -> int:
        """A conversation's tokens, the less the longer it has been silent."""
        chain, used = self.conversations[leaf]
        return int(chain.tokens * 0.5 ** ((now - used) / HALF_LIFE))


class Memory:
    """What the backends are believed to hold, and which one a session used last."""

    def __init__(self) -> None:
        self._held: dict[BackendId, _Held] = {}
        self._sessions: OrderedDict[str, BackendId] = OrderedDict()

    def cached(self, id: BackendId, chain: Chain, slots: int | None, now: float) -> tuple[int, int]:
        """The tokens of `chain` that a backend holds, and those of other conversations that it
        would have to read again for it."""
        held = self._held.get(id)
        session = chain.session is not None and self._sessions.get(chain.session) == id
        if held is None:
            return (SAME_SESSION if session else 0), 0
        tokens, evicts = held.cached(chain, slots or UNSURE_SLOTS, now)
        if session:  # what it pushes out is most likely its own, told anew
            return max(tokens, min(SAME_SESSION, chain.tokens)), 0
        return tokens, evicts

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
