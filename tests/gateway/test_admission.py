"""The promises of `rolemesh.gateway.admission`: rows C1, P2, P5 and N12 among them."""

from random import Random
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.health import Sign
from rolemesh.core.model import Backend, BackendId, Policy, QueueLimits, Role, Target
from rolemesh.core.routing import Need
from rolemesh.gateway.admission import Admission, Grant, Want
from rolemesh.gateway.entries import Props
from rolemesh.gateway.registry import Registry

CODER = Role("coder", use=(Target(url="http://a"), Target(url="http://b")), policy=Policy.FIRST)
A, B = BackendId("static", "a"), BackendId("static", "b")


class AdmissionCase(SynchronousTestCase):
    """An admission over two servers, `a` with one slot and, where asked for, `b` with one too."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = Registry(self.clock)
        self.admission = Admission(self.clock, self.registry, Random(1))
        self.serve("a")

    def serve(self, *names: str, slots: int | None = 1, sign: Sign = Sign.CHECK_OK) -> None:
        ids = {name: BackendId("static", name) for name in names}
        self.registry.set_static(
            {
                Target(url=f"http://{name}"): Backend(id, f"http://{name}", slots=slots)
                for name, id in ids.items()
            }
        )
        for id in ids.values():
            self.registry.sign(id, sign)

    def want(
        self,
        role: Role = CODER,
        key: Any = None,
        session: Any = None,
        wait: float = 60,
        **need: Any,
    ) -> Want:
        return Want(Need(role, **need), key, session, wait, lambda _: (0, 0))

    def acquire(self, role: Role = CODER, **more: Any) -> Deferred[Grant]:
        return self.admission.acquire(self.want(role, **more))

    def granted(self, role: Role = CODER, **more: Any) -> Grant:
        """A grant that was to be had at once."""
        return self.successResultOf(self.acquire(role, **more))

    def refusal(self, waiting: Deferred[Grant]) -> Refusal:
        refusal: Refusal = self.failureResultOf(waiting, Refusal).value
        return refusal

    def turn(self) -> None:
        """Let what is due at once happen."""
        self.clock.advance(0)

    def in_flight(self) -> int:
        return sum(entry.in_flight for entry in self.registry)


class SlotTests(AdmissionCase):
    """No backend has more in flight than it has slots."""

    def test_P5_slots_of_a_server_with_two_names(self) -> None:
        """Named with a model and without, a server has its slots once; who waits by the one name
        gets the slot that the other name had."""
        plain, named = Target(url="http://a"), Target(url="http://a:80", model="m")
        self.serve_targets(plain, named, slots=2)
        one, other = Role("one", use=(plain,)), Role("other", use=(named,))
        first, second = self.granted(one), self.granted(other)
        waiting = [self.acquire(one), self.acquire(other)]
        self.turn()
        for each in waiting:
            self.assertNoResult(each)
        for grant in (first, second):
            grant.release()
            self.turn()
            self.assertEqual(self.in_flight(), 2)
        for each in waiting:
            self.successResultOf(each)

    def test_P5_slots_of_several_models(self) -> None:
        """At one URL they have slots of their own, unless it turns out to be a llama-server."""
        models = [Target(url="http://a", model=model) for model in "mn"]
        self.serve_targets(*models, slots=1)
        roles = [Role(f"r{at}", use=(target,)) for at, target in enumerate(models)]
        self.granted(roles[0])
        self.granted(roles[1]).release()
        self.registry.read(BackendId("static", "0"), Props(slots=1))
        waiting = self.acquire(roles[1])
        self.turn()
        self.assertNoResult(waiting)

    def serve_targets(self, *targets: Target, slots: int) -> None:
        """Each of these as a backend of its own."""
        backends = {
            target: Backend(
                BackendId("static", str(at)), target.url or "", model=target.model, slots=slots
            )
            for at, target in enumerate(targets)
        }
        self.registry.set_static(backends)
        for backend in backends.values():
            self.registry.sign(backend.id, Sign.CHECK_OK)

    def test_P5_slots(self) -> None:
        """Of many requests as many are under way as there are slots, until all were served."""
        self.serve("a", "b", slots=2)
        under_way: list[Grant] = []
        for _ in range(20):
            self.acquire().addCallback(under_way.append)
        for served in range(0, 20, 4):
            self.turn()
            self.assertEqual(len(under_way), served + 4)
            self.assertEqual([entry.in_flight for entry in self.registry], [2, 2])
            for grant in under_way[served:]:
                grant.release()
        self.assertEqual((self.in_flight(), self.admission.waiting("coder")), (0, 0))

    def test_released_once(self) -> None:
        """A grant that is released twice gives one slot back."""
        self.serve("a", slots=2)
        one, _two = self.granted(), self.granted()
        one.release()
        one.release()
        self.assertEqual(self.in_flight(), 1)

    def test_unknown_slots(self) -> None:
        """Where nobody knows how many slots there are, nobody waits."""
        self.serve("a", slots=None)
        for _ in range(50):
            self.granted()
        self.assertEqual(self.in_flight(), 50)

    def test_caches_are_looked_up_once(self) -> None:
        """One decision asks once what each backend holds, and the grant tells of the chosen one."""
        self.serve("a", "b")
        asked: list[BackendId] = []

        def cached(id: BackendId) -> tuple[int, int]:
            asked.append(id)
            return (70 if id == A else 7), 0

        want = Want(Need(CODER, tokens=100), None, None, 60.0, cached)
        grant = self.successResultOf(self.admission.acquire(want))
        self.assertEqual((grant.backend.id, grant.cached, asked), (A, 70, [A, B]))

    def test_given_back_together(self) -> None:
        """What else a grant holds is given back with the slot, once."""
        grant, given = self.granted(), []
        grant.and_then(lambda: given.append(self.in_flight()))
        grant.release()
        grant.release()
        self.assertEqual(given, [0])

    def test_grant_tells_why(self) -> None:
        """A grant has its backend, the reason, and how long was waited for it."""
        first = self.granted()
        self.assertEqual((first.backend.id, first.route, first.waited), (A, "first", 0.0))
        waiting = self.acquire()
        self.clock.advance(3)
        first.release()
        self.turn()
        self.assertEqual(self.successResultOf(waiting).waited, 3.0)

    def test_decide_changes_nothing(self) -> None:
        """To ask what would be chosen takes no slot."""
        self.admission.decide(self.want())
        self.assertEqual(self.in_flight(), 0)


class TurnTests(AdmissionCase):
    """Who waits goes when something changes, in a fair order."""

    def setUp(self) -> None:
        super().setUp()
        self.grant = self.granted()
        self.served: list[str] = []

    def queue(self, name: str, **more: Any) -> None:
        """Wait, note the name when it is one's turn, and be done."""

        def go(grant: Grant) -> None:
            self.served.append(name)
            grant.release()

        self.acquire(**more).addCallback(go)

    def serve_all(self) -> None:
        self.grant.release()
        for _ in range(10):
            self.turn()

    def test_first_come(self) -> None:
        """Within a session, first come is first served."""
        for name in "abcde":
            self.queue(name)
        self.serve_all()
        self.assertEqual(self.served, list("abcde"))

    def test_keys_take_turns(self) -> None:
        """One key with many requests holds another's single one back for one turn at most."""
        for number in range(5):
            self.queue(f"many{number}", key="many")
        self.queue("few", key="few")
        self.serve_all()
        self.assertLessEqual(self.served.index("few"), 1)
        self.assertEqual([name for name in self.served if name != "few"], sorted(self.served)[1:])

    def test_sessions_take_turns(self) -> None:
        """Of one key, a session that fans out does not starve another."""
        for number in range(5):
            self.queue(f"fan{number}", key="k", session="fan")
        self.queue("other", key="k", session="other")
        self.serve_all()
        self.assertLessEqual(self.served.index("other"), 1)

    def test_who_comes_later_waits_too(self) -> None:
        """A slot that is free while others wait is theirs, not the newcomer's."""
        self.queue("first")
        self.grant.release()
        self.queue("late")
        self.turn()
        self.assertEqual(self.served, ["first", "late"])

    def test_never_polls(self) -> None:
        """While requests wait, no call is due but the ends of their waits."""
        for _ in range(3):
            self.acquire(wait=60)
        self.turn()
        self.assertEqual([call.getTime() for call in self.clock.getDelayedCalls()], [60, 60, 60])

    def test_no_timer_stays(self) -> None:
        """Who was served is waited for by no clock any more."""
        for name in "ab":
            self.queue(name)
        self.serve_all()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pinned_one_holds_nobody_up(self) -> None:
        """A request that waits for one node lets those behind it pass to another."""
        self.queue("pinned", node="static")
        self.queue("free")
        other = Backend(BackendId("box2", "server"), "http://c", roles=frozenset({"coder"}))
        self.registry.report("box2", [(other, None)])
        self.registry.sign(other.id, Sign.CHECK_OK)
        self.turn()
        self.assertEqual(self.served, ["free"])
        self.serve_all()
        self.assertEqual(self.served, ["free", "pinned"])

    def test_roles_share_a_backend(self) -> None:
        """A slot that becomes free goes to whoever waits longest, whatever the role."""
        writer = Role("writer", use=CODER.use)
        gone = self.acquire()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.clock.advance(1)
        self.queue("writer", role=writer)
        self.clock.advance(1)
        self.queue("coder")
        self.serve_all()
        self.assertEqual(self.served, ["writer", "coder"])

    def test_backend_comes_up(self) -> None:
        """Another backend that becomes ready serves those who wait."""
        self.queue("waits")
        self.serve("a", "b")
        self.turn()
        self.assertEqual(self.served, ["waits"])

    def test_backend_goes_away(self) -> None:
        """When nothing is left that could serve them, those who wait are told at once."""
        waiting = self.acquire()
        self.registry.sign(A, Sign.REFUSED)
        self.turn()
        self.assertEqual(self.refusal(waiting).code, "role_unavailable")
        self.assertEqual(self.clock.getDelayedCalls(), [])


class EndTests(AdmissionCase):
    """How a wait ends without a slot."""

    def test_N12_nobody_there(self) -> None:
        """A role that nobody can serve is refused at once, never queued."""
        self.serve()
        self.assertEqual(self.refusal(self.acquire()).code, "role_unavailable")
        self.assertEqual(self.admission.waiting("coder"), 0)

    def test_N12_waits_for_a_first_check(self) -> None:
        """A backend that is being checked for the first time is waited for."""
        self.registry.set_static({})
        self.registry.set_static({Target(url="http://a"): Backend(A, "http://a")})
        waiting = self.acquire()
        self.assertNoResult(waiting)
        self.registry.sign(A, Sign.CHECK_OK)
        self.turn()
        self.successResultOf(waiting)

    def test_deadline(self) -> None:
        """Who has waited as long as it would is told how full it is, and leaves the queue."""
        self.granted()
        waiting, other = self.acquire(wait=590), self.acquire(wait=600)
        self.clock.advance(590)
        refusal = self.refusal(waiting)
        self.assertEqual(refusal.code, "role_saturated")
        self.assertIn("2 waiting for 1 slots", refusal.message)
        self.assertIn("waited 590 s", refusal.message)
        self.assertTrue(refusal.retry_after and refusal.retry_after >= 1)
        self.assertNoResult(other)
        self.assertEqual(self.admission.waiting("coder"), 1)

    def test_P5_queue_is_bounded(self) -> None:
        """More than may wait are refused at once, with the numbers."""
        role = Role("coder", use=CODER.use, queue=QueueLimits(max=2))
        self.granted()
        self.acquire(role)
        self.clock.advance(5)
        self.acquire(role)
        refusal = self.refusal(self.acquire(role))
        self.assertEqual(refusal.code, "role_saturated")
        self.assertIn("2 waiting for 1 slots; the oldest waited 5 s", refusal.message)

    def test_no_queue_at_all(self) -> None:
        """A role whose queue may hold nobody still serves what is free."""
        role = Role("coder", use=CODER.use, queue=QueueLimits(max=0))
        self.granted(role)
        self.assertEqual(self.refusal(self.acquire(role)).code, "role_saturated")

    def test_C1_leaves_the_queue(self) -> None:
        """A client that goes while it waits leaves no trace, and its slot goes to the next."""
        grant = self.granted()
        gone, next = self.acquire(), self.acquire()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.assertEqual(self.admission.waiting("coder"), 1)
        grant.release()
        self.turn()
        self.successResultOf(next)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.in_flight(), 1)

    def test_P2_tried_ones_are_not_asked_again(self) -> None:
        """A second try goes elsewhere, and is refused when there is nobody else."""
        self.serve("a", "b")
        self.assertEqual(self.granted(tried=frozenset({A})).backend.id, B)
        refusal = self.refusal(self.acquire(tried=frozenset({A, B})))
        self.assertEqual(refusal.code, "role_unavailable")
