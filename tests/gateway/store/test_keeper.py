"""The promises of `rolemesh.gateway.store.keeper`: rows L4 and L5, and P10 among them."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from rolemesh.core.errors import Refusal
from rolemesh.gateway.store.interface import Hear, Kept, Lose
from rolemesh.gateway.store.keeper import GATHER, PATIENCE, RETRY, Keeper
from rolemesh.gateway.store.memory import MemoryStore
from tests.gateway.store.suite import kept


class SlowStore(MemoryStore):
    """Works on each thing until the test lets it; `writes` are the changes it was given."""

    def __init__(self, kept: dict[str, Kept] | None = None) -> None:
        super().__init__(kept)
        self.slow = False
        self.gates: list[Deferred[None]] = []
        self.writes: list[Mapping[str, Kept | None]] = []

    async def _pass(self) -> None:
        if self.slow:
            gate: Deferred[None] = Deferred()
            self.gates.append(gate)
            await gate

    async def open(self, hear: Hear, lose: Lose, /) -> Sequence[Kept]:
        self.hear, self.lose = hear, lose
        await self._pass()
        return await super().open(hear, lose)

    async def write(self, changes: Mapping[str, Kept | None]) -> None:
        self.writes.append(dict(changes))
        await self._pass()
        await super().write(changes)


class KeeperCase(SynchronousTestCase):
    """A keeper on a clock; `restored` are the nodes that came back."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.store = SlowStore()
        self.restored: list[str] = []
        self.said: list[str] = []
        self.dropped: list[str] = []
        self.keeper = Keeper(self.clock, self.store, self.restore, self.dropped.append)

        @provider(ILogObserver)
        def hear(event: LogEvent) -> None:
            if event["log_namespace"].endswith("Keeper"):
                self.said.append(event["log_format"])

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    async def restore(self, kept: Kept) -> None:
        self.restored.append(kept.node)

    def do(self, call: Any, *arguments: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(call(*arguments))

    def start(self) -> None:
        self.successResultOf(self.do(self.keeper.start))

    def keep(self, what: Kept) -> Deferred[None]:
        return self.do(self.keeper.keep, what)

    def assert_refused(self, doing: Deferred[None]) -> None:
        refusal = self.failureResultOf(doing, Refusal).value
        self.assertEqual((refusal.code, refusal.status), ("state_unavailable", 503))

    def slots(self) -> dict[str, int | None]:
        """Of each node in the store."""
        return {node: each.registration.backends[0].slots for node, each in self.store.kept.items()}


class KeepTests(KeeperCase):
    """What is acknowledged is durable."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def test_durable_before_the_answer_P10(self) -> None:
        """`keep` returns when the write is through, and no earlier."""
        self.store.slow = True
        keeping = self.keep(kept())
        self.assertNoResult(keeping)
        self.assertEqual(self.store.kept, {})
        self.store.gates.pop().callback(None)
        self.successResultOf(keeping)
        self.assertEqual(list(self.store.kept), ["box2"])

    def test_many_in_one_write(self) -> None:
        """What comes while the disk is busy shares the next write, in the order of last words."""
        self.store.slow = True
        keeping = [self.keep(kept("box1"))]
        keeping += [self.keep(each) for each in (kept("box2"), kept("box3"), kept(slots=9))]
        self.store.gates.pop().callback(None)
        self.successResultOf(keeping[0])
        self.assertNoResult(keeping[1])
        self.store.gates.pop().callback(None)
        for each in keeping:
            self.successResultOf(each)
        self.assertEqual([sorted(each) for each in self.store.writes], [["box1"], ["box2", "box3"]])
        self.assertEqual(self.slots(), {"box1": 2, "box2": 9, "box3": 2})

    def test_back_and_forth(self) -> None:
        """A word that is taken back while it is being written does not stand in the end."""
        self.successResultOf(self.keep(kept()))
        self.store.slow = True
        self.keep(kept(slots=9))
        back = self.keep(kept())
        self.store.gates.pop().callback(None)
        self.assertNoResult(back)
        self.store.gates.pop().callback(None)
        self.successResultOf(back)
        self.assertEqual(self.slots(), {"box2": 2})

    def test_nothing_new(self) -> None:
        """The same again, with a later generation, is durable already and not written."""
        self.successResultOf(self.keep(kept()))
        self.store.slow = True
        self.successResultOf(self.keep(kept(generation=7)))

    def test_forget(self) -> None:
        """`forget` returns when the node is gone from the store."""
        self.successResultOf(self.keep(kept()))
        self.assertTrue(self.keeper.holds("box2"))
        self.store.slow = True
        leaving = self.do(self.keeper.forget, "box2")
        self.assertNoResult(leaving)
        self.store.gates.pop().callback(None)
        self.successResultOf(leaving)
        self.assertEqual(self.store.kept, {})
        self.assertFalse(self.keeper.holds("box2"))

    def test_client_that_left(self) -> None:
        """Who no longer waits for the answer does not stop the write."""
        self.store.slow = True
        keeping = self.keep(kept())
        keeping.addErrback(lambda _: None)
        keeping.cancel()
        self.store.gates.pop().callback(None)
        self.assertEqual(list(self.store.kept), ["box2"])


class HeartbeatTests(KeeperCase):
    """What heartbeats change is written soon, and seldom."""

    def setUp(self) -> None:
        super().setUp()
        self.start()

    def test_gathered(self) -> None:
        """The changes of a second are one write."""
        for slots in (3, 4, 5):
            self.keeper.keep_soon(kept(slots=slots))
            self.clock.advance(GATHER / 4)
        self.assertEqual(self.store.writes, [])
        self.clock.advance(GATHER)
        self.assertEqual(len(self.store.writes), 1)
        self.assertEqual(self.slots(), {"box2": 5})

    def test_nothing_new(self) -> None:
        """A heartbeat that says nothing new is not written."""
        self.successResultOf(self.keep(kept()))
        for generation in range(2, 20):
            self.keeper.keep_soon(kept(generation=generation))
            self.clock.advance(5)
        self.assertEqual(len(self.store.writes), 1)

    def test_stop(self) -> None:
        """What has not been written yet is written before the store is closed."""
        self.keeper.keep_soon(kept(slots=9))
        self.successResultOf(self.do(self.keeper.stop))
        self.assertEqual(self.slots(), {"box2": 9})
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StartTests(KeeperCase):
    """What was kept comes back."""

    def setUp(self) -> None:
        super().setUp()
        self.store.kept = {"box2": kept(), "box3": kept("box3")}

    def test_restores_P10(self) -> None:
        """All kept nodes are restored when `start` returns, and not written again."""
        self.start()
        self.assertEqual(sorted(self.restored), ["box2", "box3"])
        self.assertEqual(self.store.writes, [])

    def test_slow_store_L5(self) -> None:
        """A store that takes too long is not waited for; what it holds comes back later."""
        self.store.slow = True
        starting = self.do(self.keeper.start)
        self.clock.advance(PATIENCE - 0.1)
        self.assertNoResult(starting)
        self.clock.advance(0.1)
        self.successResultOf(starting)
        self.store.gates.pop().callback(None)
        self.assertEqual(sorted(self.restored), ["box2", "box3"])

    def test_trouble_at_start_L5(self) -> None:
        """A store in trouble at the start is tried again, and what this life has heard goes
        before what it holds."""
        self.store.failing = "locked"
        self.start()
        self.assertEqual(self.restored, [])
        self.assert_refused(self.keep(kept(slots=9)))
        self.assert_refused(self.do(self.keeper.forget, "box3"))
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual(self.restored, [])
        self.assertEqual(self.slots(), {"box2": 9})

    def test_one_bad_node(self) -> None:
        """A node that cannot be restored does not take the others with it."""

        async def restore(kept: Kept) -> None:
            if kept.node == "box2":
                raise ValueError("odd")
            self.restored.append(kept.node)

        self.keeper = Keeper(self.clock, self.store, restore, self.dropped.append)
        self.start()
        self.assertEqual(self.restored, ["box3"])
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class TroubleTests(KeeperCase):
    """A store that fails while the gateway runs."""

    def setUp(self) -> None:
        super().setUp()
        self.start()
        self.successResultOf(self.keep(kept()))
        self.store.failing = "database or disk is full"

    def test_refused_L4(self) -> None:
        """What cannot be made durable is not acknowledged, and the client is not told the cause."""
        keeping = self.keep(kept(slots=9))
        refusal = self.failureResultOf(keeping, Refusal).value
        self.assertEqual(refusal.code, "state_unavailable")
        self.assertNotIn("full", refusal.message)
        self.assertTrue(self.keeper.trouble)
        self.assert_refused(self.keep(kept("box3")))

    def test_known_is_acknowledged_L4(self) -> None:
        """What is durable already is acknowledged while nothing can be written."""
        self.assert_refused(self.keep(kept("box3")))
        self.successResultOf(self.keep(kept()))

    def test_recovers_L4(self) -> None:
        """Once the disk has room all is written that was heard meanwhile, with no restart."""
        self.assert_refused(self.keep(kept("box3")))
        self.keeper.keep_soon(kept(slots=9))
        self.clock.advance(RETRY)
        self.assertTrue(self.keeper.trouble)
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual(self.keeper.trouble, "")
        self.assertEqual(self.slots(), {"box2": 9, "box3": 2})
        self.successResultOf(self.keep(kept("box4")))

    def test_said_once_a_minute_L4(self) -> None:
        """The log is told once a minute, and when it is over."""
        self.assert_refused(self.keep(kept("box3")))
        for _ in range(int(150 / RETRY)):
            self.clock.advance(RETRY)
            self.keep(kept("box4")).addErrback(lambda _: None)
        self.assertEqual(len(self.said), 3)
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual(self.said[3:], ["registrations are kept again"])

    def test_bug_in_the_store(self) -> None:
        """A failure that nobody expected refuses as well, and nobody waits for ever."""

        async def odd(_: object) -> None:
            raise ValueError("odd")

        self.patch(self.store, "write", odd)
        self.assert_refused(self.keep(kept("box3")))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_set_aside_under_us_L6(self) -> None:
        """A store that comes back empty is told again all that memory knows."""
        self.assert_refused(self.keep(kept("box3")))
        self.store.kept.clear()
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual(sorted(self.store.kept), ["box2", "box3"])


class SharedTests(KeeperCase):
    """A store that other gateways write to as well."""

    def setUp(self) -> None:
        super().setUp()
        self.store.shared = True
        self.store.kept = {"box2": kept(), "box3": kept("box3")}
        self.start()
        self.restored.clear()

    def elsewhere(self, **changes: Kept | None) -> None:
        """Another gateway writes."""
        for node, each in changes.items():
            self.store.kept.pop(node)
            if each is not None:
                self.store.kept[node] = each

    def test_follows(self) -> None:
        """What another gateway wrote is taken in, and let go of, and not written again."""
        self.store.hear({"box2": kept(slots=9), "box3": None, "box4": kept("box4")})
        self.assertEqual((self.restored, self.dropped), (["box2", "box4"], ["box3"]))
        self.clock.advance(GATHER)
        self.assertEqual(self.store.writes, [])

    def test_known_already(self) -> None:
        """What one wrote oneself is no news."""
        self.successResultOf(self.keep(kept(slots=9)))
        self.store.hear({"box2": kept(slots=9), "nobody": None})
        self.assertEqual((self.restored, self.dropped), ([], []))

    def test_own_news_last(self) -> None:
        """A word of another gateway does not overwrite one that is being written here."""
        self.store.slow = True
        keeping = self.keep(kept(slots=9))
        self.store.hear({"box2": kept(slots=4)})
        self.store.gates.pop().callback(None)
        self.successResultOf(keeping)
        self.assertEqual(self.restored, [])
        self.assertEqual(self.slots(), {"box2": 9, "box3": 2})

    def test_catches_up(self) -> None:
        """After it was away, the other gateways' words are taken in and ours are written."""
        self.store.failing = "away"
        self.store.lose("away")
        self.assertTrue(self.keeper.trouble)
        self.assert_refused(self.keep(kept("box4")))
        self.elsewhere(box2=kept(slots=7), box3=None)
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual((self.restored, self.dropped), (["box2"], ["box3"]))
        self.assertEqual(self.slots(), {"box2": 7, "box4": 2})
        self.assertEqual(self.keeper.trouble, "")
