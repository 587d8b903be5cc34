"""The promises of `rolemesh.gateway.health`: rows P1, P15, B16 and L8 among them."""

from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import Condition, Sign
from rolemesh.core.model import Backend, BackendId, BackendState, Target
from rolemesh.core.report import BackendReport, Registration
from rolemesh.gateway.entries import Entry
from rolemesh.gateway.fleet import Fleet
from rolemesh.gateway.health import Checks
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.upstream import Upstream
from tests.gateway.memory import Net, Server

A = BackendId("static", "a")


class ChecksCase(SynchronousTestCase):
    """Checks of the backend `a`, without jitter."""

    def setUp(self) -> None:
        self.net = Net()
        self.registry = Registry(self.net)
        self.fleet = Fleet(self.net, self.registry)
        self.checks = Checks(self.net, self.registry, Upstream(self.net), lambda: 0.5)
        self.server = self.net.server()

    def begin(self, *servers: Server) -> None:
        self.put(*servers or [self.server])
        self.checks.startService()
        self.net.turn()

    def put(self, *servers: Server) -> None:
        named = zip("abc", servers, strict=False)
        backends = {
            Target(url=each.url): Backend(BackendId("static", name), each.url)
            for name, each in named
        }
        self.registry.set_static(backends)
        self.net.turn()

    @property
    def entry(self) -> Entry:
        entry = self.registry.get(A)
        assert entry is not None
        return entry

    def condition(self) -> Condition:
        return self.entry.health.condition

    def health_checks(self) -> int:
        return self.server.checks.count("/health")


class PaceTests(ChecksCase):
    """When a backend is asked."""

    def test_at_once(self) -> None:
        """A backend is asked as soon as it is known, and a good answer makes it ready."""
        self.begin()
        self.assertEqual((self.health_checks(), self.condition()), (1, Condition.UP))

    def test_interval(self) -> None:
        """One that is well is asked again after the interval, and not before."""
        self.begin()
        self.net.spend(1.9, 0.1)
        self.assertEqual(self.health_checks(), 1)
        self.net.spend(0.2, 0.1)
        self.assertEqual(self.health_checks(), 2)

    def test_fast_after_trouble(self) -> None:
        """One whose last check failed is asked again soon, and taken out after three in a row."""
        self.begin()
        self.server.mood = "refuse"
        self.net.spend(2.5, 0.1)
        self.assertEqual(self.condition(), Condition.UP)
        self.net.spend(2, 0.1)
        self.assertEqual(self.condition(), Condition.DOWN)

    def test_P1_back_again(self) -> None:
        """One that was out is back after two good checks, which come soon."""
        self.server.mood = "refuse"
        self.begin()
        self.net.spend(3)
        self.assertEqual(self.condition(), Condition.DOWN)
        self.server.mood = "accept"
        self.net.spend(2)
        self.assertEqual(self.condition(), Condition.UP)

    def test_P1_silent(self) -> None:
        """A check that nobody answers has failed after its timeout."""
        self.server.health = None
        self.begin()
        self.net.spend(1.75)
        self.assertEqual(self.condition(), Condition.UNKNOWN)
        self.net.spend(0.5)
        self.assertEqual(self.condition(), Condition.DOWN)

    def test_one_at_a_time(self) -> None:
        """While a check is under way no other is begun."""
        self.server.health = None
        self.begin()
        self.net.spend(1.75)
        self.assertEqual(self.health_checks(), 1)

    def test_spread(self) -> None:
        """Jitter spreads checks by a tenth to either side."""
        for jitter, before, after in ((0.0, 1.7, 1.9), (1.0, 2.1, 2.3)):
            self.setUp()
            self.checks = Checks(
                self.net, self.registry, Upstream(self.net), partial(float, jitter)
            )
            self.begin()
            self.net.spend(before, 0.1)
            self.assertEqual(self.health_checks(), 1, jitter)
            self.net.spend(after - before, 0.1)
            self.assertEqual(self.health_checks(), 2, jitter)

    def test_each_by_itself(self) -> None:
        """A backend that does not answer keeps no other waiting."""
        other = self.net.server()
        self.server.health = None
        self.begin(self.server, other)
        self.net.spend(5)
        self.assertEqual(other.checks.count("/health"), 3)

    def test_B20_an_ejection_is_logged(self) -> None:
        """Also one that requests brought about, with what it is for."""
        self.begin()
        with capturedLogs() as lines:
            for _ in range(2):
                self.registry.sign(A, Sign.MISFIT)
        told = [formatEvent(line) for line in lines]
        self.assertEqual(told, [f"{A} is ejected: it sent garbage, or refused the gateway's key"])

    def test_L8_ticks(self) -> None:
        """Ejections end by the clock of the checks."""
        self.begin()
        for _ in range(5):
            self.registry.sign(A, Sign.BROKE)
        self.assertEqual(self.condition(), Condition.EJECTED)
        self.net.spend(11)
        self.assertEqual(self.condition(), Condition.UP)


class NodeStateTests(ChecksCase):
    """What a node says of its server decides whether it is asked."""

    generation = 0

    def tell(self, state: BackendState) -> None:
        told = BackendReport("gpu0", self.server.url, state=state)
        self.generation += 1
        node = Registration("box2", instance="a", generation=self.generation, backends=(told,))
        self.fleet.register(node, [Backend(BackendId("box2", "gpu0"), told.base_url)])
        self.net.turn()

    def state(self) -> Condition:
        entry = self.registry.get(BackendId("box2", "gpu0"))
        assert entry is not None
        return entry.health.condition

    def test_without_a_server_nobody_is_asked(self) -> None:
        """Another program may listen there by now, and the key is not for that; what an earlier
        server answered is forgotten."""
        self.checks.startService()
        for state in (BackendState.BACKOFF, BackendState.CRASH_LOOP, BackendState.STOPPED):
            self.tell(BackendState.READY)
            self.assertEqual(self.state(), Condition.UP)
            self.tell(state)
            asked = list(self.server.checks)
            self.net.spend(10)
            self.assertEqual((self.server.checks, self.state()), (asked, Condition.UNKNOWN))

    def test_one_that_comes_without_a_server_is_not_asked(self) -> None:
        """Not even once."""
        self.checks.startService()
        self.tell(BackendState.BACKOFF)
        self.net.spend(5)
        self.assertEqual(self.server.checks, [])

    def test_asked_at_once_when_there_is_one_again(self) -> None:
        """No time passes between the node's word and the question."""
        self.checks.startService()
        for state in (BackendState.LOADING, BackendState.READY):
            self.tell(BackendState.BACKOFF)
            self.net.spend(5)
            before = self.health_checks()
            self.tell(state)
            self.assertEqual(self.health_checks(), before + 1)
            self.net.spend(2.1, 0.1)
            self.assertEqual(self.health_checks(), before + 2)

    def test_an_answer_that_comes_too_late_counts_for_nothing(self) -> None:
        """It is of the server that has ended meanwhile."""
        self.server.health = None
        self.checks.startService()
        self.tell(BackendState.READY)
        self.tell(BackendState.BACKOFF)
        self.net.spend(3)
        self.assertEqual((self.health_checks(), self.state()), (1, Condition.UNKNOWN))


class AnswerTests(ChecksCase):
    """What an answer is taken for."""

    def after(self, status: int, body: Any = None) -> Condition:
        self.server.health = (status, body or {})
        self.begin()
        return self.condition()

    def test_B16_loading(self) -> None:
        """503 is a server that loads its model."""
        self.assertEqual(self.after(503), Condition.LOADING)
        self.server.health = (200, {})
        self.net.spend(1)
        self.assertEqual(self.condition(), Condition.UP)

    def test_fault(self) -> None:
        """Anything else is a failure."""
        self.assertEqual(self.after(500), Condition.DOWN)

    def test_no_health(self) -> None:
        """A server without `/health` is well when it lists its models."""
        self.assertEqual(self.after(404), Condition.UP)
        self.assertEqual(self.server.checks[:2], ["/health", "/v1/models"])

    def test_bug(self) -> None:
        """A check that breaks down is a failed one, is logged, and others follow."""

        def fail(*_: object) -> Deferred[Any]:
            raise ZeroDivisionError

        self.patch(self.checks, "_get", fail)
        self.begin()
        self.net.spend(1)
        self.assertEqual(self.condition(), Condition.DOWN)
        self.assertGreater(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class PropsTests(ChecksCase):
    """What a llama-server says of itself."""

    def test_read(self) -> None:
        """Slots, context, build and what its template can are read, with the first good check."""
        self.server.llama(3, 8192, chat_template_caps={"supports_tools": True})
        self.begin()
        backend = self.entry.backend
        self.assertEqual((backend.slots, backend.context, backend.build), (3, 8192, "b1"))
        self.assertEqual((backend.llama_server, backend.tools), (True, True))

    def test_read_once(self) -> None:
        """They are read once, not with each check."""
        self.server.llama()
        self.begin()
        self.net.spend(10)
        self.assertEqual(self.server.checks.count("/props"), 1)
        self.assertEqual(self.health_checks(), 6)

    def test_not_before_it_is_well(self) -> None:
        """A server that loads is not asked for them yet."""
        self.server.llama().health = (503, {})
        self.begin()
        self.net.spend(2)
        self.assertNotIn("/props", self.server.checks)

    def test_not_yet(self) -> None:
        """When they are not to be had yet they are asked for again."""
        self.server.props = (503, {})
        self.begin()
        self.server.llama(2)
        self.net.spend(3)
        self.assertEqual(self.entry.backend.slots, 2)

    def test_none(self) -> None:
        """Another server's odd or missing answer says nothing, and is no failure."""
        odd: tuple[Any, ...] = ({}, [], b"hello", {"total_slots": "two"}, {"total_slots": None})
        for props in odd:
            self.setUp()
            self.server.props = (200, props)
            self.begin()
            self.assertEqual(self.condition(), Condition.UP, props)
            self.assertEqual(
                (self.entry.backend.slots, self.entry.backend.llama_server), (None, False)
            )

    def test_odd_numbers(self) -> None:
        """Numbers that cannot be are left out."""
        self.server.llama(0, -1)
        self.begin()
        self.assertEqual((self.entry.backend.slots, self.entry.backend.context), (None, 0))

    def test_restarted_otherwise(self) -> None:
        """A server that was away may have come back as another: it is asked again."""
        self.server.llama(1, 4096)
        self.begin()
        self.server.mood = "refuse"
        self.net.spend(5)
        self.server.llama(4, 8192).mood = "accept"
        self.net.spend(3)
        self.assertEqual((self.entry.backend.slots, self.entry.backend.context), (4, 8192))


class LifeTests(ChecksCase):
    """Checks begin and end with their service and their backends."""

    def test_new_one(self) -> None:
        """A backend that comes later is checked at once."""
        self.begin()
        other = self.net.server()
        self.put(self.server, other)
        self.assertEqual(other.checks.count("/health"), 1)

    def test_gone(self) -> None:
        """One that has left is asked no more."""
        self.begin()
        self.put()
        self.net.spend(5)
        self.assertEqual(self.health_checks(), 1)

    def test_gone_while_asked(self) -> None:
        """A check of one that leaves is broken off."""
        self.server.health = None
        self.begin()
        self.put()
        self.net.turn()
        self.assertEqual(list(self.registry), [])
        self.net.spend(5)
        self.assertEqual(self.health_checks(), 1)

    def test_moved(self) -> None:
        """One that moved is asked at its new place alone."""
        self.begin()
        other = self.net.server()
        self.put(other)
        self.net.spend(3)
        self.assertEqual((self.health_checks(), other.checks.count("/health")), (1, 2))

    def test_stopped(self) -> None:
        """Nothing is left with the clock after the end."""
        silent = self.net.server()
        silent.health = None
        self.begin(self.server, silent)
        self.checks.stopService()
        self.net.turn()
        self.assertEqual(self.net.getDelayedCalls(), [])

    def test_before_its_start(self) -> None:
        """A backend that is known before the service starts is not asked before it."""
        self.put(self.server)
        self.net.spend(3)
        self.assertEqual(self.server.checks, [])
