"""What is believed to be cached where, and that conversations stay where their cache is."""

from collections.abc import Callable, Sequence
from itertools import chain as chained
from random import Random

from attrs import define, evolve, field
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.affinity import (
    CONVERSATIONS,
    HALF_LIFE,
    PERHAPS,
    SAME_SESSION,
    SESSIONS,
    Memory,
)
from rolemesh.core.chains import Chain
from rolemesh.core.model import BackendId, Policy, Role
from rolemesh.core.routing import Candidate, Go, Need, decide
from tests.core.talks import ANSWER, ASK, MORE, SYSTEM, chain, said

ONE, TWO, THREE = (BackendId(f"box{n}", "gpu0") for n in (1, 2, 3))


class MemoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.memory = Memory()

    def answered(self, id: BackendId, chain: Chain, slots: int = 2) -> None:
        """A request has come and gone."""
        self.memory.began(id, chain, slots, 0.0)
        self.memory.ended(id, chain, 0.0)

    def held(self, id: BackendId, chain: Chain, slots: int = 1, now: float = 0) -> tuple[int, int]:
        return self.memory.cached(id, chain, slots, now)

    def test_a_conversation_is_known_where_it_was(self) -> None:
        """The next turn finds all of the former one cached there, and pushes nothing out."""
        first, second = chain(SYSTEM, ASK), chain(SYSTEM, ASK, ANSWER, MORE)
        self.answered(ONE, first)
        self.assertEqual(self.held(ONE, second), (first.tokens, 0))
        self.assertEqual(self.held(TWO, second), (0, 0))

    def test_a_new_conversation_pushes_out_the_oldest(self) -> None:
        """Without a free slot the least recently used conversation is lost, worth less with age."""
        old, new = chain(said("user", "old " * 99)), chain(said("user", "newer " * 99))
        self.answered(ONE, old)
        self.answered(ONE, new)
        stranger = chain(said("user", "stranger"))
        self.assertEqual(self.held(ONE, stranger, slots=2), (0, old.tokens))
        self.assertEqual(self.held(ONE, stranger, slots=2, now=HALF_LIFE), (0, old.tokens // 2))

    def test_a_free_slot_costs_next_to_nothing(self) -> None:
        """With a slot free, only a token for each conversation there, so that new ones spread."""
        self.answered(ONE, chain(ASK))
        self.assertEqual(self.held(ONE, chain(MORE), slots=2), (0, 1))

    def test_one_that_begins_alike_is_pushed_out(self) -> None:
        """llama-server takes the most similar slot even when another one is free; the loss counts
        for each turn that the conversation may be expected to go on."""
        new = chain(SYSTEM, MORE)
        for turns, there in ((1, chain(SYSTEM, ASK)), (2, chain(SYSTEM, ASK, ANSWER, ASK))):
            self.answered(ONE, there)
            expected = (new.links[0][1], turns * there.tokens)
            self.assertEqual(self.held(ONE, new, slots=4), expected)

    def test_what_was_pushed_out_is_not_there(self) -> None:
        """Of a conversation whose slot was taken, only what both begin with is left."""
        lost, taker = chain(SYSTEM, ASK), chain(SYSTEM, MORE)
        self.answered(ONE, lost)
        self.answered(ONE, taker)
        self.assertEqual(self.held(ONE, lost, slots=4)[0], lost.links[0][1])

    def test_what_left_the_slots_is_there_perhaps(self) -> None:
        """More conversations than slots: those of longest ago count half, and push another out."""
        first, second = chain(said("user", "one " * 99)), chain(said("user", "two " * 99))
        self.answered(ONE, first)
        self.answered(ONE, second)
        self.assertEqual(self.held(ONE, first, slots=1), (first.tokens // 2, second.tokens))

    def test_a_slot_at_work_is_not_to_be_had(self) -> None:
        """While a conversation is being answered, one that begins alike finds nothing of it and
        takes another slot: the free one, or that of whom has been silent longest."""
        stranger, talking = chain(said("user", "stranger " * 99)), chain(SYSTEM, ASK)
        self.memory.began(ONE, talking, 2, 0.0)
        self.assertEqual(self.held(ONE, chain(SYSTEM, MORE), slots=2), (0, 1))
        self.answered(ONE, stranger)
        self.assertEqual(self.held(ONE, chain(SYSTEM, MORE), slots=2), (0, stranger.tokens))
        self.assertEqual(self.held(ONE, chain(SYSTEM, ASK, ANSWER, MORE), slots=1), (0, 1))

    def test_pairs_that_speak_at_once_keep_a_slot_each(self) -> None:
        """Neither conversation is forgotten for the other when both were answered side by side."""
        pair = chain(SYSTEM, ASK), chain(SYSTEM, MORE)
        for each in pair:
            self.memory.began(ONE, each, 2, 0.0)
        for each in pair:
            self.memory.ended(ONE, each, 0.0)
        self.assertEqual(
            [self.held(ONE, each, slots=2) for each in pair],
            [(pair[0].tokens, 0), (pair[1].tokens, 0)],
        )

    def test_asked_twice_at_once(self) -> None:
        """The same text under way twice is at work until both have ended."""
        for _ in range(2):
            self.memory.began(ONE, chain(ASK), 2, 0.0)
        self.memory.ended(ONE, chain(ASK), 0.0)
        self.assertEqual(self.held(ONE, chain(ASK), slots=1)[0], 0)
        self.memory.ended(ONE, chain(ASK), 0.0)
        self.assertEqual(self.held(ONE, chain(ASK), slots=1)[0], chain(ASK).tokens)

    def test_whether_it_paid(self) -> None:
        """What has left the slots counts for more, or for less, as it is found again or not."""
        first, second = (chain(said("user", f"{text} " * 99)) for text in ("one", "two"))
        beliefs = []
        for share in (0, 1, 1):
            self.answered(ONE, first, slots=1)
            self.answered(ONE, second, slots=1)
            self.memory.began(ONE, first, 1, 0.0)
            self.memory.found(ONE, first, share * first.tokens)
            self.memory.ended(ONE, first, 0.0)
            self.answered(ONE, second, slots=1)
            beliefs.append(self.held(ONE, first)[0])
        self.assertLess(beliefs[0], int(first.tokens * PERHAPS))
        self.assertLess(beliefs[0], beliefs[1])
        self.assertLess(beliefs[1], beliefs[2])

    def test_what_was_in_a_slot_says_nothing_of_the_rest(self) -> None:
        """A belief in a slot that proves false is no news of the host's memory."""
        first, second = (chain(said("user", f"{text} " * 99)) for text in ("one", "two"))
        self.answered(ONE, first, slots=1)
        self.memory.began(ONE, first, 1, 0.0)
        self.memory.found(ONE, first, 0)
        self.memory.ended(ONE, first, 0.0)
        self.answered(ONE, second, slots=1)
        self.assertEqual(self.held(ONE, first)[0], int(first.tokens * PERHAPS))

    def test_a_conversation_told_anew_is_the_same(self) -> None:
        """Another end of the last turn pushes nothing out, unless another session says it."""
        there = chain(ASK, ANSWER, MORE, session="one")
        self.answered(ONE, there)
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
            self.answered(ONE, each)
        for n in range(CONVERSATIONS):
            self.answered(ONE, chain(said("user", f"number {n}")))
        self.assertEqual(self.held(ONE, alone)[0], 0)

    @given(
        st.lists(
            st.tuples(
                st.lists(st.sampled_from("abc"), min_size=1, max_size=5),
                st.sampled_from([None, "one", "two"]),
                st.booleans(),
            ),
            max_size=30,
        )
    )
    def test_whatever_comes_it_adds_up(
        self, texts: list[tuple[list[str], str | None, bool]]
    ) -> None:
        """After any requests, some still under way, the latest that was answered is known in full;
        no belief exceeds what was asked, and what was under way is there once all have ended."""
        memory, open = Memory(), []
        for text, session, stays in texts:
            asked = chain(*(said("system" if word == "a" else "user", word) for word in text))
            asked = evolve(asked, session=session)
            self.assertLessEqual(memory.cached(ONE, asked, 40, 0.0)[0], asked.tokens)
            memory.began(ONE, asked, 40, 0.0)
            open.append(asked)
            if not stays:
                memory.ended(ONE, open.pop(), 0.0)
            if asked.links not in [each.links for each in open]:
                self.assertEqual(memory.cached(ONE, asked, 40, 0.0)[0], asked.tokens)
        for asked in open:
            memory.ended(ONE, asked, 0.0)
        for asked in open:
            self.assertEqual(memory.cached(ONE, asked, 40, 0.0)[0], asked.tokens)

    def test_a_session_decides_between_equals(self) -> None:
        """Where nothing else is known of it, a session counts a little where it was."""
        self.answered(ONE, Chain("s", ()))
        self.assertEqual(self.held(ONE, Chain("s", ())), (SAME_SESSION, 0))
        self.assertEqual(self.held(TWO, Chain("s", ())), (0, 0))
        self.assertEqual(self.held(ONE, Chain("other", ())), (0, 0))

    def test_a_lost_backend_is_forgotten(self) -> None:
        """A backend that went holds nothing any more."""
        self.answered(ONE, chain(ASK))
        self.memory.forget(ONE)
        self.assertEqual(self.held(ONE, chain(ASK)), (0, 0))

    def test_it_forgets_the_oldest(self) -> None:
        """Of a backend no more conversations are kept than the limit, of all no more sessions."""
        chains = [chain(said("user", f"number {n}")) for n in range(CONVERSATIONS + 1)]
        for each in chains:
            self.answered(ONE, each)
        self.assertEqual([self.held(ONE, each)[0] > 0 for each in chains[:2]], [False, True])
        for n in range(SESSIONS + 1):
            self.answered(TWO, Chain(f"s{n}", ()))
        known = [self.held(TWO, Chain(f"s{n}", ()))[0] for n in (0, 1)]
        self.assertEqual(known, [0, SAME_SESSION])


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
        memory.began(decision.id, asked, 2, now)
        memory.ended(decision.id, asked, now)
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
