"""What is believed to be cached where, and that conversations stay where their cache is."""

import json
from collections.abc import Callable, Sequence
from itertools import chain as chained
from random import Random
from typing import Any

from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.affinity import (
    CONVERSATIONS,
    HALF_LIFE,
    LONGEST_CHAIN,
    SAME_SESSION,
    SESSION_HEADERS,
    SESSIONS,
    Chain,
    Memory,
    chain_of,
    paid,
    session_of,
)
from rolemesh.core.model import BackendId, Policy, Role
from rolemesh.core.openai import Api, read
from rolemesh.core.routing import Candidate, Go, Need, decide

ONE, TWO, THREE = (BackendId(f"box{n}", "gpu0") for n in (1, 2, 3))


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chain(*messages: dict[str, Any], session: str | None = None, **more: Any) -> Chain:
    body = json.dumps({"model": "coder", "messages": messages, **more}).encode()
    return chain_of(read(Api.CHAT, body), session)


def about(api: Api, **facts: Any) -> Chain:
    return chain_of(read(api, json.dumps(facts).encode()), None)


SYSTEM = said("system", "You are a careful engineer. " * 40)
ASK, ANSWER, MORE = said("user", "Why? " * 30), said("assistant", "So. " * 30), said("user", "And?")


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


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = Memory()

    def held(self, id: BackendId, chain: Chain, slots: int = 1, now: float = 0) -> tuple[int, int]:
        return self.memory.cached(id, chain, slots, now)

    def test_a_conversation_is_known_where_it_was(self) -> None:
        """The next turn finds all of the former one cached there, and pushes nothing out."""
        first, second = chain(SYSTEM, ASK), chain(SYSTEM, ASK, ANSWER, MORE)
        self.memory.placed(ONE, first, 0.0)
        self.assertEqual(self.held(ONE, second), (first.tokens, 0))
        self.assertEqual(self.held(TWO, second), (0, 0))

    def test_a_new_conversation_pushes_out_the_oldest(self) -> None:
        """Without a free slot the least recently used conversation is lost, worth less with age."""
        old, new = chain(said("user", "old " * 99)), chain(said("user", "newer " * 99))
        self.memory.placed(ONE, old, 0.0)
        self.memory.placed(ONE, new, 0.0)
        stranger = chain(said("user", "stranger"))
        self.assertEqual(self.held(ONE, stranger, slots=2), (0, old.tokens))
        self.assertEqual(self.held(ONE, stranger, slots=2, now=HALF_LIFE), (0, old.tokens // 2))

    def test_a_free_slot_costs_next_to_nothing(self) -> None:
        """With a slot free, only a token for each conversation there, so that new ones spread."""
        self.memory.placed(ONE, chain(ASK), 0.0)
        self.assertEqual(self.held(ONE, chain(MORE), slots=2), (0, 1))

    def test_one_that_begins_alike_is_pushed_out(self) -> None:
        """llama-server takes the most similar slot even when another one is free; the loss counts
        for each turn that the conversation may be expected to go on."""
        new = chain(SYSTEM, MORE)
        for turns, there in ((1, chain(SYSTEM, ASK)), (2, chain(SYSTEM, ASK, ANSWER, ASK))):
            self.memory.placed(ONE, there, 0.0)
            expected = (new.links[0][1], turns * there.tokens)
            self.assertEqual(self.held(ONE, new, slots=4), expected)

    def test_what_was_pushed_out_is_not_there(self) -> None:
        """Of a conversation whose slot was taken, only what both begin with is left."""
        lost, taker = chain(SYSTEM, ASK), chain(SYSTEM, MORE)
        self.memory.placed(ONE, lost, 0.0)
        self.memory.placed(ONE, taker, 0.0)
        self.assertEqual(self.held(ONE, lost, slots=4)[0], lost.links[0][1])

    def test_what_left_the_slots_is_there_perhaps(self) -> None:
        """More conversations than slots: those of longest ago count half, and push another out."""
        first, second = chain(said("user", "one " * 99)), chain(said("user", "two " * 99))
        self.memory.placed(ONE, first, 0.0)
        self.memory.placed(ONE, second, 0.0)
        self.assertEqual(self.held(ONE, first, slots=1), (first.tokens // 2, second.tokens))

    def test_a_conversation_told_anew_is_the_same(self) -> None:
        """Another end of the last turn pushes nothing out, unless another session says it."""
        there = chain(ASK, ANSWER, MORE, session="one")
        self.memory.placed(ONE, there, 0.0)
        edited = said("user", "Or else?")
        tokens = there.links[1][1]
        for session, evicts in (("one", 0), (None, 0), ("two", 2 * there.tokens)):
            again = chain(ASK, ANSWER, edited, session=session)
            self.assertEqual(self.held(ONE, again, slots=4)[1], evicts)
            self.assertEqual(self.held(ONE, again, slots=4)[0], tokens)
        longer = chain(ASK, ANSWER, MORE, ANSWER, MORE, session="a new name for each request")
        self.assertEqual(self.held(ONE, longer, slots=4), (there.tokens, 0))

    def test_one_placed_again_is_held_once(self) -> None:
        """A text that another one begins with can be asked again, and is forgotten whole."""
        opening = said("system", "Be brief.")
        alone, long = chain(opening), chain(opening, said("user", "x" * 4000))
        for each in (alone, long, alone, chain(opening, MORE)):
            self.memory.placed(ONE, each, 0.0)
        for n in range(CONVERSATIONS):
            self.memory.placed(ONE, chain(said("user", f"number {n}")), 0.0)
        self.assertEqual(self.held(ONE, alone)[0], 0)

    @given(
        st.lists(
            st.tuples(
                st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
                st.sampled_from([None, "one", "two"]),
            ),
            max_size=30,
        )
    )
    def test_whatever_comes_it_adds_up(self, texts: list[tuple[list[str], str | None]]) -> None:
        """After any requests the latest is known in full; no belief exceeds what was asked."""
        memory = Memory()
        for text, session in texts:
            asked = chain(*(said("system" if word == "a" else "user", word) for word in text))
            asked = evolve(asked, session=session)
            self.assertLessEqual(memory.cached(ONE, asked, 2, 0.0)[0], asked.tokens)
            memory.placed(ONE, asked, 0.0)
            self.assertEqual(memory.cached(ONE, asked, 2, 0.0)[0], asked.tokens)

    def test_a_session_decides_between_equals(self) -> None:
        """Where nothing else is known of it, a session counts a little where it was."""
        self.memory.placed(ONE, Chain("s", ()), 0.0)
        self.assertEqual(self.held(ONE, Chain("s", ())), (SAME_SESSION, 0))
        self.assertEqual(self.held(TWO, Chain("s", ())), (0, 0))
        self.assertEqual(self.held(ONE, Chain("other", ())), (0, 0))

    def test_a_lost_backend_is_forgotten(self) -> None:
        """A backend that went holds nothing any more."""
        self.memory.placed(ONE, chain(ASK), 0.0)
        self.memory.forget(ONE)
        self.assertEqual(self.held(ONE, chain(ASK)), (0, 0))

    def test_it_forgets_the_oldest(self) -> None:
        """Of a backend no more conversations are kept than the limit, of all no more sessions."""
        chains = [chain(said("user", f"number {n}")) for n in range(CONVERSATIONS + 1)]
        for each in chains:
            self.memory.placed(ONE, each, 0.0)
        self.assertEqual([self.held(ONE, each)[0] > 0 for each in chains[:2]], [False, True])
        for n in range(SESSIONS + 1):
            self.memory.placed(TWO, Chain(f"s{n}", ()), 0.0)
        known = [self.held(TWO, Chain(f"s{n}", ()))[0] for n in (0, 1)]
        self.assertEqual(known, [0, SAME_SESSION])

    def test_whether_it_paid(self) -> None:
        """A quarter of what was believed is enough, and little is not worth a word."""
        self.assertEqual(
            [paid(1000, 250), paid(1000, 249), paid(256, 0), paid(0, 0)], [True, False, True, True]
        )


Text = tuple[str, ...]
Order = list[int]
IDS = (ONE, TWO, THREE)


def tokens(text: Sequence[str]) -> int:
    return sum(map(len, text)) // 4


@define(eq=False)
class Server:
    """A llama-server's two slots with their prefix caches, the least recently used first."""

    slots: list[Text] = field(factory=lambda: [(), ()])

    def answer(self, prompt: Text, answer: str) -> int:
        """The tokens of the prompt that had to be processed."""
        slot = max(self.slots, key=lambda each: self.cached(each, prompt))
        if self.cached(slot, prompt) <= 0.1 * tokens(prompt):
            slot = self.slots[0]
        processed = tokens(prompt) - self.cached(slot, prompt)
        self.slots.remove(slot)
        self.slots.append((*prompt, answer))
        return processed

    @staticmethod
    def cached(slot: Text, prompt: Text) -> int:
        return tokens([one for one, other in zip(slot, prompt, strict=False) if one == other])


@define(eq=False)
class Talk:
    """A conversation that grows by a turn at a time; two of them have one system prompt."""

    number: int
    turn: int = 0
    text: Text = field(init=False)

    @text.default
    def _system(self) -> Text:
        return (f"system {self.number // 2} ".ljust(4000, "s"),)

    def ask(self) -> Text:
        self.turn += 1
        self.text = (*self.text, f"user {self.number}.{self.turn} ".ljust(400, "u"))
        return self.text

    def hear(self) -> str:
        answer = f"assistant {self.number}.{self.turn} ".ljust(600, "a")
        self.text = (*self.text, answer)
        return answer


Place = Callable[[Talk, Text], BackendId]


def processed(place: Place, order: Order) -> int:
    """The prompt tokens that three servers process when conversations speak in that order."""
    servers, talks = {id: Server() for id in IDS}, [Talk(n) for n in range(6)]
    total = 0
    for talk in (talks[number] for number in order):
        prompt = talk.ask()
        total += servers[place(talk, prompt)].answer(prompt, talk.hear())
    return total


def fixed(talk: Talk, _prompt: Text) -> BackendId:
    return IDS[talk.number % 3]


def routed(policy: Policy, random: Random) -> Place:
    """Where `decide` sends each request, a second after the one before."""
    memory, turns = Memory(), dict.fromkeys(IDS, 0)
    role = Role("coder", policy=policy)

    def place(_talk: Talk, prompt: Text) -> BackendId:
        asked = chain(*map(said, ("system", *("user", "assistant") * 18), prompt))
        now = float(max(turns.values()))
        beliefs = {id: memory.cached(id, asked, 2, now) for id in IDS}
        candidates = [
            Candidate(id, slots=2, last_turn=turns[id], cached=cached, evicts=evicts)
            for id, (cached, evicts) in beliefs.items()
        ]
        decision = decide(candidates, Need(role, asked.tokens), random)
        assert isinstance(decision, Go)
        memory.placed(decision.id, asked, now)
        turns[decision.id] = max(turns.values()) + 1
        return decision.id

    return place


def in_turn(_random: Random) -> Order:
    return list(range(6)) * 18


def shuffled_after_the_first(random: Random) -> Order:
    rounds = [random.sample(range(6), 6) for _ in range(17)]
    return [*range(6), *chained.from_iterable(rounds)]


def one_after_another(_random: Random) -> Order:
    """Each begins five rounds after the one before."""
    return [n for round in range(18 + 25) for n in range(6) if 0 <= round - 5 * n < 18]


def quite_mixed(random: Random) -> Order:
    order = list(range(6)) * 18
    random.shuffle(order)
    return order


class PlacementTests(SynchronousTestCase):
    def worst(self, policy: Policy, order: Callable[[Random], Order]) -> float:
        """Tokens processed by a policy, of those by fixed placement; of four tries the worst."""
        ratios = [
            processed(routed(policy, Random(seed)), order(Random(seed)))
            / processed(fixed, order(Random(seed)))
            for seed in range(4)
        ]
        return max(ratios)

    def test_affinity_reads_no_more_than_fixed_placement(self) -> None:
        """Six conversations, pairs of which share a system prompt, on three servers of two slots:
        at most 1.05 of the prompt tokens that they cost with a place of their own each."""
        for order in (in_turn, shuffled_after_the_first, one_after_another):
            ratios = {policy: self.worst(policy, order) for policy in Policy}
            told = ", ".join(f"{policy}: {ratio:.2f}" for policy, ratio in ratios.items())
            print(f"\nprompt tokens of fixed placement, {order.__name__}: {told}")
            self.assertLessEqual(ratios[Policy.AFFINITY], 1.05)

    def test_a_bad_beginning_does_not_last(self) -> None:
        """In whatever order they begin, no two go on pushing each other out."""
        self.assertLessEqual(self.worst(Policy.AFFINITY, quite_mixed), 1.25)
