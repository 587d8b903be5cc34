"""Gateways agree on a conversation's backend without talking."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.chains import chain_of
from rolemesh.core.model import BackendId
from rolemesh.core.openai import Api, read
from rolemesh.core.rendezvous import Lot, lot_of, weight

BOXES = [BackendId(f"box{n}", "gpu0") for n in range(4)]
KEYS = st.binary(min_size=1, max_size=64)
SYSTEM = {"role": "system", "content": "You write code. " * 200}


def drawn(lot: Lot, among: Sequence[BackendId]) -> BackendId:
    return max(among, key=lambda id: weight(lot, id))


def lot(*texts: str, session: str | None = None, system: Any = SYSTEM) -> Lot:
    """The lot of a chat in which these were said in turn, by user and assistant."""
    roles = ("user", "assistant")
    said = [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]
    body = {"model": "coder", "messages": [system, *said]}
    return told(Api.CHAT, body, session)


def told(api: Api, body: Any, session: str | None = None) -> Lot:
    found = lot_of(chain_of(read(api, msgspec.json.encode(body)), session), api)
    assert found is not None
    return found


class DrawnTests(SynchronousTestCase):
    @given(KEYS, st.permutations(BOXES))
    def test_same_everywhere(self, key: bytes, order: list[BackendId]) -> None:
        """The order in which a gateway learned of the backends does not matter."""
        self.assertEqual(drawn(Lot(key), order), drawn(Lot(key), BOXES))

    def test_alike(self) -> None:
        """Each backend is drawn for about as many conversations as any other."""
        counts = Counter(drawn(Lot(b"%d" % n), BOXES) for n in range(2000))
        self.assertEqual(len(counts), 4)
        self.assertGreater(min(counts.values()), 420)

    @given(KEYS, st.sampled_from(BOXES))
    def test_only_its_own_move(self, key: bytes, gone: BackendId) -> None:
        """When a backend goes, the conversations of all others stay where they are."""
        before = drawn(Lot(key), BOXES)
        after = drawn(Lot(key), [each for each in BOXES if each != gone])
        self.assertTrue(after == before or before == gone)


class LotTests(SynchronousTestCase):
    def test_same_in_each_turn(self) -> None:
        """A conversation has one key from its first turn to its last; a session has one however
        its conversations begin."""
        first, later = lot("hello"), lot("hello", "hi", "and now?")
        self.assertEqual(first.key, later.key)
        self.assertEqual(lot("a", session="s").key, lot("b", session="s").key)

    def test_shared_opening(self) -> None:
        """Conversations with one system prompt are not all drawn to one backend."""
        keys = {lot(f"question {n}").key for n in range(50)}
        self.assertEqual(len(keys), 50)

    def test_heard(self) -> None:
        """What was answered before has been read by some backend; a first turn, or a prompt that
        has no turns, by none."""
        self.assertEqual(lot("hello").heard, 0)
        self.assertGreater(lot("hello", "hi" * 400, "and now?").heard, 800)
        prompt = {"model": "coder", "prompt": "word " * 5000}
        self.assertEqual(told(Api.COMPLETIONS, prompt).heard, 0)

    def test_opening(self) -> None:
        """How long the opening is, is known, to tell it from the conversation."""
        self.assertEqual(lot("hello").opening, lot("something else").opening)
        self.assertGreater(lot("hello").opening, 800)
        self.assertEqual(told(Api.COMPLETIONS, {"prompt": "hello"}).opening, 0)

    def test_nothing_to_draw_by(self) -> None:
        """What no model reads, and no session is of, has no lot."""
        self.assertIsNone(lot_of(chain_of(read(Api.RERANK, b'{"model":"m"}'), None), Api.RERANK))

    def test_only_an_opening(self) -> None:
        """A request that has nothing but a system prompt is drawn by that."""
        self.assertEqual(lot().key, lot().key)
        self.assertNotEqual(lot().key, lot(system={**SYSTEM, "content": "other"}).key)
