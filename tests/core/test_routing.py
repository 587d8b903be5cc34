"""Where a request goes, waits or is refused: every case of the decision, and each policy."""

from collections import Counter
from collections.abc import Sequence
from itertools import product
from random import Random
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import Condition
from rolemesh.core.model import BackendId, Policy, Requirements, Role
from rolemesh.core.rendezvous import Lot, weight
from rolemesh.core.routing import BESIDE, Candidate, Decision, Go, Need, No, Wait, decide, lacks

KINDS: dict[str, dict[str, Any]] = {
    "free": {},
    "full": {"slots": 1, "in_flight": 1},
    "ejected": {"condition": Condition.EJECTED},
    "ejected and full": {"condition": Condition.EJECTED, "slots": 1, "in_flight": 1},
    "unknown": {"condition": Condition.UNKNOWN},
    "loading": {"condition": Condition.LOADING},
    "down": {"condition": Condition.DOWN},
    "its node loads it": {"node_ready": False, "note": "loading, 40%"},
    "its node starts it": {"node_ready": False, "note": "starting"},
    "its node is silent": {"node_ready": False, "note": "silent: its node has stopped reporting"},
    "draining": {"draining": True},
}
LOADING = {"loading", "its node loads it", "its node starts it"}


def backend(n: int, **facts: Any) -> Candidate:
    return Candidate(BackendId(f"box{n}", "gpu0"), **facts)


def need(
    policy: Policy = Policy.AFFINITY, require: Requirements | None = None, **facts: Any
) -> Need:
    return Need(Role("coder", policy=policy, require=require or Requirements()), **facts)


NEED = need()


def expected(kinds: Sequence[str]) -> str:
    """What must come of backends of these kinds, in words instead of code."""
    up = [kind for kind in kinds if kind in ("free", "full")]
    up = up or [kind for kind in kinds if kind.startswith("ejected")]
    if "free" in up or "ejected" in up:
        return "go"
    if up or "unknown" in kinds:
        return "wait"
    return "model_loading" if LOADING & set(kinds) else "role_unavailable"


def name_of(decision: Decision) -> str:
    if isinstance(decision, No):
        return decision.refusal.code
    return "go" if isinstance(decision, Go) else "wait"


class DecideTests(SynchronousTestCase):
    def decided(self, *candidates: Candidate, need: Need = NEED) -> Decision:
        return decide(candidates, need, Random(0))

    def gone(self, *candidates: Candidate, need: Need = NEED) -> str:
        decision = self.decided(*candidates, need=need)
        assert isinstance(decision, Go), decision
        return decision.id.node

    def refused(self, *candidates: Candidate, need: Need = NEED) -> tuple[str, str]:
        decision = self.decided(*candidates, need=need)
        assert isinstance(decision, No), decision
        return decision.refusal.code, decision.refusal.message

    def test_every_mixture(self) -> None:
        """For any three backends the decision is the one that their kinds demand."""
        for kinds in product(KINDS, repeat=3):
            candidates = [backend(n, **KINDS[kind]) for n, kind in enumerate(kinds)]
            decision = self.decided(*candidates)
            self.assertEqual(name_of(decision), expected(kinds), kinds)
            if isinstance(decision, Go):
                chosen = kinds[int(decision.id.node.removeprefix("box"))]
                self.assertEqual(chosen, "free" if "free" in kinds else "ejected", kinds)

    def test_P8_the_last_one_is_never_ejected(self) -> None:
        """An ejected backend gets nothing while another is up, even a full one, and all when it is
        the last; one that fails its checks gets nothing in any case."""
        ejected, down = (
            backend(1, condition=Condition.EJECTED),
            backend(2, condition=Condition.DOWN),
        )
        full = backend(3, slots=1, in_flight=1)
        self.assertEqual(self.gone(ejected, down), "box1")
        self.assertIsInstance(self.decided(ejected, down, full), Wait)
        self.assertEqual(self.refused(down)[0], "role_unavailable")

    def test_N14_own_count_wins(self) -> None:
        """A node that reports nothing busy gets no more than its slots; more busy than we know of
        counts too; where slots are unknown, nothing is full."""
        self.assertTrue(backend(1, slots=2, in_flight=2, elsewhere=0).full)
        self.assertTrue(backend(1, slots=2, in_flight=1, elsewhere=1).full)
        self.assertTrue(backend(1, slots=2, elsewhere=999).full)
        self.assertFalse(backend(1, slots=2, in_flight=1).full)
        self.assertFalse(backend(1, slots=None, in_flight=999).full)

    def test_loading_dead_and_full_are_three_answers(self) -> None:
        """B16, B17: loading tells the progress and 5 s, dead tells why and 2 s, full waits."""
        decision = self.decided(
            backend(1, **KINDS["its node loads it"]), backend(2, condition=Condition.DOWN)
        )
        assert isinstance(decision, No)
        self.assertEqual(decision.refusal.headers()["retry-after"], "5")
        self.assertIn("box1/gpu0: loading, 40%", decision.refusal.message)
        decision = self.decided(backend(1, condition=Condition.DOWN))
        assert isinstance(decision, No)
        self.assertEqual(decision.refusal.headers()["retry-after"], "2")
        self.assertIn("box1/gpu0 is down", decision.refusal.message)
        waits = self.decided(backend(1, **KINDS["full"]))
        self.assertEqual(waits, Wait("every slot is busy", waits.scores))

    def test_nobody_serves_it(self) -> None:
        """A role without a backend is unavailable, and the message says that."""
        self.assertEqual(
            self.refused(),
            (
                "role_unavailable",
                "No backend can answer for the role 'coder': no backend serves it."
                " Try again in 2 s.",
            ),
        )

    def test_not_to_those_that_failed_it(self) -> None:
        """A backend that failed a request does not get it again, though it alone is left."""
        one, two = backend(1), backend(2)
        self.assertEqual(self.gone(one, two, need=need(tried=frozenset({one.id}))), "box2")
        code, message = self.refused(one, need=need(tried=frozenset({one.id})))
        self.assertEqual(code, "role_unavailable")
        self.assertIn("box1/gpu0: it failed this request already", message)

    def test_a_pin_holds(self) -> None:
        """A pinned request goes to its node or nowhere, waits for it, and is told why not."""
        one, two = backend(1, ahead=99.0, in_flight=9), backend(2)
        self.assertEqual(self.gone(one, two, need=need(node="box1")), "box1")
        full = backend(1, **KINDS["full"])
        self.assertIsInstance(self.decided(full, two, need=need(node="box1")), Wait)
        self.assertIn("pinned to node 'box3'", self.refused(one, two, need=need(node="box3"))[1])

    def test_a_second_try_asks_for_more(self) -> None:
        """Room for a longer prompt, or the very same model, can be asked for."""
        small = backend(1, context=4096, model="a")
        large = backend(2, context=65536, model="b")
        silent = backend(3)
        self.assertEqual(self.gone(small, large, silent, need=need(context=8000)), "box2")
        self.assertEqual(self.gone(small, large, silent, need=need(model="a")), "box1")
        _, message = self.refused(small, silent, need=need(context=8000))
        self.assertIn("box1/gpu0: 4096 tokens per slot, the request needs 8000", message)
        self.assertIn("box3/gpu0: of unknown context", message)
        self.assertIn("another model", self.refused(large, need=need(model="a"))[1])

    def test_requirements_filter(self) -> None:
        """What a role requires is looked up at each backend; what is unknown is given the benefit
        of the doubt, but for labels."""
        site = frozenset({("site", "basement")})
        require = Requirements(context=8192, tools=True, labels={"site": "basement"})
        good = backend(1, context=8192, tools=True, labels=site)
        for lack, words in (
            ({"context": 4096}, "4096 tokens per slot, the role requires 8192"),
            ({"tools": False}, "its chat template knows no tools"),
            ({"labels": frozenset({("site", "attic")})}, "no label site=basement"),
            ({"labels": frozenset()}, "no label site=basement"),
        ):
            bad = evolve(evolve(good, id=BackendId("box2", "gpu0")), **lack)
            self.assertEqual(self.gone(bad, good, need=need(require=require)), "box1")
            self.assertIn(words, self.refused(bad, need=need(require=require))[1])
        self.assertEqual(lacks(0, None, site, require), "")
        self.assertEqual(lacks(1, False, frozenset(), Requirements()), "")

    def test_every_candidate_is_accounted_for(self) -> None:
        """The scores name each one that could have been chosen with seconds, those that are unfit
        with a reason."""
        one, two = backend(1, ahead=40.0, slots=2), backend(2, draining=True)
        decision = self.decided(one, two)
        self.assertEqual(
            [(each.id, each.seconds, each.refusal) for each in decision.scores],
            [(one.id, 40.0 / 2 * BESIDE, ""), (two.id, None, "it is draining")],
        )

    @given(
        st.lists(
            st.builds(
                Candidate,
                id=st.builds(BackendId, st.sampled_from(["a", "b", "c"]), st.uuids().map(str)),
                condition=st.sampled_from(Condition),
                node_ready=st.booleans(),
                draining=st.booleans(),
                slots=st.none() | st.integers(1, 4),
                in_flight=st.integers(0, 5),
                elsewhere=st.integers(0, 5),
                warmth=st.floats(0.1, 1.0),
                ahead=st.floats(0, 1e6),
                read_rate=st.floats(1e-3, 1e6),
                cached=st.integers(0, 10**6),
                evicts=st.integers(0, 10**6),
                last_turn=st.integers(0, 9),
            ),
            max_size=6,
        ),
        st.sampled_from(Policy),
        st.integers(0, 10**6),
        st.none() | st.sampled_from(["a", "b"]),
    )
    def test_never_more_than_slots(
        self, candidates: list[Candidate], policy: Policy, tokens: int, node: str | None
    ) -> None:
        """No policy ever sends a request to a full, draining, unready or failed backend."""
        decision = decide(candidates, need(policy, tokens=tokens, node=node), Random(1))
        if isinstance(decision, Go):
            chosen = next(each for each in candidates if each.id == decision.id)
            self.assertFalse(chosen.full or chosen.draining or not chosen.node_ready)
            self.assertIn(chosen.condition, (Condition.UP, Condition.EJECTED))
            self.assertIn(node, (None, chosen.id.node))


class PolicyCase(SynchronousTestCase):
    def chosen(
        self,
        policy: Policy,
        *candidates: Candidate,
        tokens: int = 0,
        random: Random | None = None,
        lot: Lot | None = None,
    ) -> tuple[str, str]:
        decision = decide(candidates, need(policy, tokens=tokens, lot=lot), random or Random(0))
        assert isinstance(decision, Go)
        return decision.id.node, decision.route


class PolicyTests(PolicyCase):
    def test_ties_break_at_random(self) -> None:
        """Of equals each is chosen about as often, whatever the order they stand in."""
        random = Random(7)
        for policy in (Policy.AFFINITY, Policy.LEAST_LOADED, Policy.ROUND_ROBIN):
            equals = [backend(n, ahead=1.0, last_turn=3) for n in range(4)]
            hits = Counter(
                self.chosen(policy, *equals, tokens=100, random=random)[0] for _ in range(1000)
            )
            self.assertEqual(len(hits), 4)
            self.assertGreater(min(hits.values()), 200)

    def test_first(self) -> None:
        """`first` is the earliest in the role's order that is free, however loaded."""
        busy = backend(2, order=0, ahead=99.0)
        self.assertEqual(self.chosen(Policy.FIRST, backend(1, order=1), busy), ("box2", "first"))
        full = evolve(busy, slots=1, in_flight=1)
        self.assertEqual(self.chosen(Policy.FIRST, backend(1, order=1), full)[0], "box1")

    def test_round_robin(self) -> None:
        """`round-robin` is the one whose turn was longest ago."""
        candidates = [backend(n, last_turn=turn) for n, turn in enumerate((5, 3, 4))]
        self.assertEqual(self.chosen(Policy.ROUND_ROBIN, *candidates), ("box1", "round-robin"))

    def test_least_loaded_counts_work(self) -> None:
        """`least-loaded` weighs the work that waits, not the number of requests; a cache is not
        looked at."""
        many_small = backend(1, in_flight=3, ahead=1.0, slots=4)
        one_large = backend(2, in_flight=1, ahead=60.0, slots=4, cached=5000)
        chosen = self.chosen(Policy.LEAST_LOADED, many_small, one_large, tokens=5000)
        self.assertEqual(chosen, ("box1", "least-loaded"))

    def test_least_loaded_knows_the_slow(self) -> None:
        """A backend that reads four times slower gets a long prompt only when the other has more
        to do than the difference."""
        slow, fast = backend(1, read_rate=250.0), backend(2, read_rate=1000.0, ahead=1.0)
        self.assertEqual(self.chosen(Policy.LEAST_LOADED, slow, fast, tokens=1000)[0], "box2")
        busy = evolve(fast, ahead=9.0)
        self.assertEqual(self.chosen(Policy.LEAST_LOADED, slow, busy, tokens=1000)[0], "box1")

    def test_P1_slow_start(self) -> None:
        """A backend that has just come back gets the work only when others have much more."""
        for policy in (Policy.AFFINITY, Policy.LEAST_LOADED):
            cold, warm = backend(1, warmth=0.1), backend(2, ahead=3.0)
            self.assertEqual(self.chosen(policy, cold, warm, tokens=1000)[0], "box2")
            self.assertEqual(
                self.chosen(policy, cold, evolve(warm, ahead=30.0), tokens=1000)[0], "box1"
            )

    def test_affinity_keeps(self) -> None:
        """A conversation stays where it is cached, and the route says how much was believed."""
        home, idle = backend(1, cached=3000, ahead=2.0), backend(2)
        chosen = self.chosen(Policy.AFFINITY, home, idle, tokens=4000)
        self.assertEqual(chosen, ("box1", "affinity; cached=3000"))

    def test_affinity_gives_way_to_load(self) -> None:
        """When more work waits there than reading anew would cost, it goes elsewhere."""
        home, idle = backend(1, cached=3000, ahead=4.0), backend(2)
        chosen = self.chosen(Policy.AFFINITY, home, idle, tokens=4000)
        self.assertEqual(chosen, ("box2", "affinity gave way to load"))

    def test_affinity_gives_way_when_home_is_full(self) -> None:
        """It does not wait for a slot at home while another backend is free."""
        home = backend(1, cached=3000, slots=1, in_flight=1)
        self.assertEqual(self.chosen(Policy.AFFINITY, home, backend(2), tokens=4000)[0], "box2")

    def test_affinity_spreads_new_conversations(self) -> None:
        """A new one goes where it pushes nothing out, though a shared beginning is cached
        elsewhere."""
        shared = backend(1, cached=800, evicts=1000)
        self.assertEqual(
            self.chosen(Policy.AFFINITY, shared, backend(2), tokens=1000),
            ("box2", "affinity gave way to load"),
        )
        self.assertEqual(
            self.chosen(Policy.AFFINITY, backend(1, evicts=9), backend(2), tokens=1000),
            ("box2", "affinity; new"),
        )

    def test_affinity_prefers_the_fast_for_what_is_new(self) -> None:
        """A backend that reads four times slower gets no new conversation while the other idles."""
        slow, fast = backend(1, read_rate=250.0), backend(2)
        self.assertEqual(self.chosen(Policy.AFFINITY, slow, fast, tokens=1000)[0], "box2")


class AgreementTests(PolicyCase):
    """Two gateways, each with its own memory and its own view of the load, and one conversation."""

    def drawn_one(self, *candidates: Candidate) -> Lot:
        """A lot that draws the first of them."""
        ids = [each.id for each in candidates]
        lots = (Lot(b"%d" % n) for n in range(1000))
        return next(lot for lot in lots if max(ids, key=lambda id: weight(lot, id)) == ids[0])

    def place(self, *candidates: Candidate, lot: Lot, tokens: int = 4000) -> tuple[str, str]:
        return self.chosen(Policy.AFFINITY, *candidates, tokens=tokens, lot=lot)

    def test_new_ones(self) -> None:
        """What is new goes to one place from every gateway, though their rates differ a little;
        and the places are all backends alike."""
        here = [backend(n, slots=4) for n in range(3)]
        there = [backend(n, slots=4, read_rate=1000.0 + 20 * n, evicts=n) for n in range(3)]
        counts: Counter[str] = Counter()
        for n in range(300):
            lot = Lot(b"%d" % n)
            box, route = self.place(*here, lot=lot)
            self.assertEqual((box, route), self.place(*there, lot=lot))
            counts[box] += 1
        self.assertGreater(min(counts[f"box{n}"] for n in range(3)), 60)

    def test_load_first(self) -> None:
        """Nothing new is drawn to a backend that has more to do than the best one, or where it
        would push out another conversation; nor away from what is cached."""
        idle = backend(2, slots=4)
        for worse in (
            backend(1, slots=4, in_flight=1, ahead=0.1),
            backend(1, slots=4, elsewhere=1, ahead=0.1),
            backend(1, slots=4, evicts=2000),
            backend(1, slots=4, evicts=30),
            backend(1, slots=4, read_rate=500.0),
        ):
            lot = self.drawn_one(worse, idle)
            self.assertEqual(self.place(worse, idle, lot=lot)[0], "box2")
        knows = backend(2, slots=4, cached=100)
        lot = self.drawn_one(backend(1, slots=4), knows)
        self.assertEqual(self.place(backend(1, slots=4), knows, lot=lot)[0], "box2")

    def test_a_hot_opening(self) -> None:
        """Requests that all begin alike spread out as they come, drawn by one lot or not."""
        boxes = {n: backend(n, slots=4) for n in range(3)}
        lot = Lot(b"hot")
        for _ in range(12):
            box, _ = self.place(*boxes.values(), lot=lot)
            n = int(box.removeprefix("box"))
            taken = boxes[n].in_flight + 1
            boxes[n] = evolve(boxes[n], in_flight=taken, ahead=8.0 * taken)
        self.assertEqual([each.in_flight for each in boxes.values()], [4, 4, 4])

    def test_went_on_elsewhere(self) -> None:
        """A conversation that another gateway has had is brought where that one will have sent it,
        also when that is the busier; but not at any price."""
        home, idle = backend(1, slots=4, in_flight=1, ahead=8.0), backend(2, slots=4)
        lot = evolve(self.drawn_one(home, idle), heard=3800)
        self.assertEqual(self.place(home, idle, lot=lot), ("box1", "affinity; new"))
        self.assertEqual(self.place(evolve(home, evicts=2000), idle, lot=lot)[0], "box2")
        full = evolve(home, in_flight=4)
        self.assertEqual(self.place(full, idle, lot=lot)[0], "box2")

    def test_known_here(self) -> None:
        """What this gateway knows goes before what it could draw."""
        drawn_one, knows = backend(1, slots=4), backend(2, slots=4, cached=3900)
        lot = evolve(self.drawn_one(drawn_one, knows), heard=3800)
        self.assertEqual(self.place(drawn_one, knows, lot=lot), ("box2", "affinity; cached=3900"))
        less = evolve(knows, cached=100)  # of the prompt; the answer was long
        self.assertEqual(self.place(drawn_one, less, lot=lot), ("box2", "affinity; cached=100"))

    def test_an_opening_is_not_the_conversation(self) -> None:
        """A system prompt that is cached elsewhere does not hide that the rest is unknown here."""
        home, opening = backend(1, slots=4), backend(2, slots=4, cached=300)
        lot = evolve(self.drawn_one(home, opening), heard=3800, opening=300)
        self.assertEqual(self.place(home, opening, lot=lot), ("box1", "affinity; drawn"))
