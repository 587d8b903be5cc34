"""What is cached where: the conversations that each backend holds, and forgetful.

A backend keeps the KV cache of about as many conversations as it has slots. Which one a new
conversation pushes out is what llama-server does: the one that begins most like it, if that is
enough alike, else the one that was used least recently; never one that is at work. So two
conversations with one system prompt take turns in one slot, each pushing the other out, while
another slot stands free, unless they speak at the same time; a conversation that has gone on is
worth the more turns.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from itertools import islice

from attrs import define, field, frozen

from rolemesh.core.chains import Chain
from rolemesh.core.model import BackendId

CONVERSATIONS = 64  # remembered of one backend at the most
SESSIONS = 10_000
UNSURE_SLOTS = 4  # where a backend has not said how many it has
HALF_LIFE = 300.0  # seconds after which a silent conversation is worth half as much
ALIKE = 0.1  # share of a prompt that a slot must hold to be taken before the least recent one
MOST_TURNS = 4  # in which one conversation is thought to push out another
PERHAPS = 0.5  # of what has left the slots, until it is known what the host's memory keeps
LEARN = 0.3  # of each time that this showed
SAME_SESSION = 64  # tokens: more than a free slot elsewhere is worth, less than a prompt


@define(eq=False)
class _Conversation:
    """One conversation at a backend, last `used` at an instant, with its requests under way.

    `hoped` are tokens that the latest of these might find in the host's memory.
    """

    chain: Chain
    used: float
    under_way: int
    hoped: int

    def worth(self, now: float) -> int:
        """Its tokens, the less the longer it has been silent."""
        return int(self.chain.tokens * 0.5 ** ((now - self.used) / HALF_LIFE))


@frozen
class _Slots:
    """A backend's slots: how many have work, how many have none, and the conversations that are in
    the latter, the latest first. The other silent conversations have left the slots."""

    taken: int
    free: int
    idle: tuple[bytes, ...]


@define(eq=False)
class _Held:
    """What one backend is believed to hold: conversations by their last link, the latest used
    last, and of each link those that have it; and how much of those that have left its slots was
    `kept` in the host's memory."""

    conversations: OrderedDict[bytes, _Conversation] = field(factory=OrderedDict)
    having: dict[bytes, list[bytes]] = field(factory=dict)
    kept: float = PERHAPS
    at_work: int = 0

    def begin(self, chain: Chain, slots: int, now: float) -> None:
        """A request takes the slot of the conversation that it goes on or pushes out."""
        there, hoped = self._slots(slots), 0
        leaf, shared = self._nearest(chain, there.idle.__contains__)
        if leaf is None or not self._takes(chain, leaf, shared):
            leaf, shared = self._nearest(chain, partial(self._away, there))
            hoped = _tokens(chain, shared)
        if leaf is not None and self._takes(chain, leaf, shared):
            self._drop(leaf)
        self._add(chain, hoped, now)

    def end(self, chain: Chain, now: float) -> None:
        """A request has left its slot."""
        last = chain.links[-1][0]
        conversation = self.conversations.get(last)
        if conversation is not None:
            if conversation.under_way == 1:
                self.at_work -= 1
            conversation.under_way = max(0, conversation.under_way - 1)
            conversation.used = now
            self.conversations.move_to_end(last)

    def found(self, chain: Chain, tokens: int) -> None:
        """So many tokens were not read again; learn from it what the host's memory is worth."""
        conversation = self.conversations.get(chain.links[-1][0])
        if conversation is not None and conversation.hoped:
            self.kept += LEARN * (min(1.0, tokens / conversation.hoped) - self.kept)

    def cached(self, chain: Chain, slots: int, now: float) -> tuple[int, int]:
        """See `Memory.cached`."""
        there = self._slots(slots)
        leaf, shared = self._nearest(chain, there.idle.__contains__)
        if leaf is not None and self._takes(chain, leaf, shared):
            return _tokens(chain, shared), self._evicts(chain, leaf, shared, now)
        _, kept = self._nearest(chain, partial(self._away, there))
        tokens = max(_tokens(chain, shared), int(_tokens(chain, kept) * self.kept))
        return tokens, self._room(there, now)

    def _slots(self, slots: int) -> _Slots:
        free = max(0, slots - self.at_work)
        silent = (leaf for leaf in reversed(self.conversations) if self._silent(leaf))
        return _Slots(self.at_work, free, tuple(islice(silent, free)))

    def _silent(self, leaf: bytes) -> bool:
        return not self.conversations[leaf].under_way

    def _away(self, there: _Slots, leaf: bytes) -> bool:
        return self._silent(leaf) and leaf not in there.idle

    def _nearest(self, chain: Chain, fits: Callable[[bytes], bool]) -> tuple[bytes | None, int]:
        """The conversation that begins most like `chain`, and how many links they share."""
        for shared in range(len(chain.links), 0, -1):
            for leaf in reversed(self.having.get(chain.links[shared - 1][0], ())):
                if fits(leaf):
                    return leaf, shared
        return None, 0

    def _takes(self, chain: Chain, leaf: bytes, shared: int) -> bool:
        """Whether a request is given the slot of that conversation, by what they share."""
        goes_on = chain.goes_on(self.conversations[leaf].chain, shared)
        return goes_on or _tokens(chain, shared) > ALIKE * chain.tokens

    def _evicts(self, chain: Chain, leaf: bytes, shared: int, now: float) -> int:
        """The tokens that another conversation must read again when its slot was taken; once for
        each turn that it may be expected to go on."""
        there = self.conversations[leaf]
        if chain.goes_on(there.chain, shared):
            return 0
        return min(there.chain.turns, MOST_TURNS) * there.worth(now)

    def _room(self, there: _Slots, now: float) -> int:
        """The tokens that the least recent of the slots without work would forget; of an empty
        one, so many as others are in use, for new conversations to spread out."""
        if len(there.idle) < there.free or not there.idle:
            return len(there.idle) + there.taken
        return self.conversations[there.idle[-1]].worth(now)

    def _add(self, chain: Chain, hoped: int, now: float) -> None:
        last = chain.links[-1][0]
        under_way = self._drop(last).under_way if last in self.conversations else 0
        self.conversations[last] = _Conversation(chain, now, under_way + 1, hoped)
        self.at_work += 1
        for link, _ in chain.links:
            self.having.setdefault(link, []).append(last)
        if len(self.conversations) > CONVERSATIONS:
            self._drop(next(iter(self.conversations)))

    def _drop(self, leaf: bytes) -> _Conversation:
        conversation = self.conversations.pop(leaf)
        if conversation.under_way:
            self.at_work -= 1
        for link, _ in conversation.chain.links:
            self.having[link].remove(leaf)
            if not self.having[link]:
                del self.having[link]
        return conversation


def _tokens(chain: Chain, links: int) -> int:
    return chain.links[links - 1][1] if links else 0


class Memory:
    """What the backends are believed to hold, and which one a session used last.

    `slots` are a backend's, None where it has not said how many it has.
    """

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

    def began(self, id: BackendId, chain: Chain, slots: int | None, now: float) -> None:
        """A request with this text is being read there."""
        if chain.links:
            self._held.setdefault(id, _Held()).begin(chain, slots or UNSURE_SLOTS, now)
        if chain.session is not None:
            self._sessions[chain.session] = id
            self._sessions.move_to_end(chain.session)
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)

    def ended(self, id: BackendId, chain: Chain, now: float) -> None:
        """That request is over: its conversation is silent, until it goes on or is pushed out."""
        if chain.links and id in self._held:
            self._held[id].end(chain, now)

    def found(self, id: BackendId, chain: Chain, tokens: int) -> None:
        """So many tokens of a text were cached there indeed."""
        if chain.links and id in self._held:
            self._held[id].found(chain, tokens)

    def forget(self, id: BackendId) -> None:
        """A backend holds nothing any more."""
        self._held.pop(id, None)
