"""Prefixes of requests, and the sessions that they name."""

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.chains import LONGEST_CHAIN, SESSION_HEADERS, Chain, chain_of, session_of
from rolemesh.core.openai import Api, read
from tests.core.talks import ANSWER, ASK, MORE, SYSTEM, chain, said


def about(api: Api, **facts: Any) -> Chain:
    return chain_of(read(api, json.dumps(facts).encode()), None)


def common(one: Chain, other: Chain) -> int:
    """How many links both begin with."""
    return sum(a == b for a, b in zip(one.links, other.links, strict=False))


class ChainTests(SynchronousTestCase):
    def test_a_conversation_grows_by_links(self) -> None:
        """The next turn of a conversation begins with every link of the one before."""
        first, second = chain(SYSTEM, ASK), chain(SYSTEM, ASK, ANSWER, MORE)
        self.assertEqual(second.links[:2], first.links)
        self.assertEqual((first.opening, first.turns, second.turns), (1, 1, 2))
        self.assertGreater(second.tokens, first.tokens)

    def test_an_early_change_changes_all_that_follows(self) -> None:
        """Other tools or another system prompt share nothing; another question, what is before."""
        plain = chain(SYSTEM, ASK)
        self.assertEqual(common(plain, chain(SYSTEM, ASK, tools=[{"type": "function"}])), 0)
        self.assertEqual(common(plain, chain(said("system", "Else."), ASK)), 0)
        self.assertEqual(common(plain, chain(SYSTEM, MORE)), 1)

    def test_moving_cache_marks_do_not_break_it(self) -> None:
        """Marks that a client moves from its last message to the next are not part of the text."""

        def block(text: str, **more: Any) -> list[Any]:
            return [{"type": "text", "text": text, **more}]

        mark = {"cache_control": {"type": "ephemeral"}}
        first = chain(said("user", block("one", **mark)))
        second = chain(said("user", block("one")), ANSWER, said("user", block("two", **mark)))
        self.assertEqual(second.links[:1], first.links)

    def test_every_api_that_reads_text_has_a_chain(self) -> None:
        """Plain prompts are cut in blocks, so that two of them share their beginning."""
        long, other = "x" * 5000, "x" * 4500 + "y" * 500
        for api, name in (
            (Api.COMPLETIONS, "prompt"),
            (Api.INFILL, "input_prefix"),
            (Api.RESPONSES, "input"),
        ):
            one = about(api, **{name: long})
            self.assertEqual((one.tokens, len(one.links)), (1251, 5))
            self.assertEqual(common(one, about(api, **{name: other})), 4)
        claude = about(Api.MESSAGES, system="Be brief.", messages=[ASK])
        self.assertEqual((len(claude.links), claude.opening), (2, 1))

    def test_what_has_no_text_has_no_chain(self) -> None:
        """What no model reads, and messages that are no list, have no links and no tokens."""
        counted = (Api.COUNT_TOKENS, {"messages": [ASK], "system": "Be brief."})
        for api, facts in (counted, (Api.EMBEDDINGS, {"input": "x"}), (Api.CHAT, {"messages": 7})):
            self.assertEqual((about(api, **facts).links, about(api, **facts).tokens), ((), 0))

    def test_its_length_is_bounded(self) -> None:
        """A conversation of very many messages has no more links than the limit."""
        self.assertEqual(len(chain(*[MORE] * (LONGEST_CHAIN + 9)).links), LONGEST_CHAIN)

    def test_party(self) -> None:
        """One agent's fan-out is one party, whatever sessions it names; others are another."""
        system = {"role": "system", "content": "You review code."}
        ask = {"role": "user", "content": "now"}
        fan = [chain(system, ask, session=name) for name in ("one", "two")]
        other = chain({**system, "content": "You plan."}, ask, session="one")
        self.assertEqual(fan[0].party, fan[1].party)
        self.assertNotEqual(fan[0].party, other.party)
        self.assertEqual(chain(ask, session="one").party, "one")
        self.assertIsNone(chain(ask).party)


class SessionTests(SynchronousTestCase):
    def test_headers_of_the_real_clients(self) -> None:
        """Each known header names the session, before any field of the body."""
        for name in SESSION_HEADERS:
            self.assertEqual(session_of({name: "s1"}, {"prompt_cache_key": "k"}), "s1")

    def test_fields_of_the_real_clients(self) -> None:
        """`prompt_cache_key`, else `metadata.user_id`, names it where no header does."""
        self.assertEqual(session_of({}, {"prompt_cache_key": "k", "metadata": {}}), "k")
        self.assertEqual(session_of({}, {"metadata": {"user_id": "u"}}), "u")

    def test_none_and_nonsense(self) -> None:
        """Nothing, and what is no text, is no session; a long name is cut."""
        for facts in ({}, {"metadata": 7}, {"metadata": {"user_id": 7}}, {"prompt_cache_key": ""}):
            self.assertIsNone(session_of({}, facts))
        self.assertEqual(session_of({"session-id": "x" * 999}, {}), "x" * 256)
