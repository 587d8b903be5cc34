"""The promises of `rolemesh.gateway.usage`."""

from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.limits import DAY
from rolemesh.core.usage import Usage as Bill
from rolemesh.gateway.records import Record
from rolemesh.gateway.store.interface import Usage
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.usage import DAYS, MOST, PATIENCE, SAVE_EVERY, Ledger

NOON = 20_000 * DAY + DAY / 2  # of 2024-10-04
TODAY, YESTERDAY = "2024-10-04", "2024-10-03"


class SlowStore(MemoryStore):
    """Adds once the test lets it, if it is to wait at all."""

    gate: Deferred[None] | None = None

    async def add_usage(self, rows: Sequence[Usage]) -> None:
        if self.gate is not None:
            await self.gate
        await super().add_usage(rows)


class LedgerCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = SlowStore()
        self.failures: list[str] = []
        self.elsewhere: list[tuple[str, int]] = []
        self.open()
        self.ledger = self.new()

    def open(self) -> None:
        self.store.failing = ""
        self.successResultOf(Deferred.fromCoroutine(self.store.open(print, print)))

    def new(self) -> Ledger:
        ledger = Ledger(
            self.clock,
            lambda: NOON + self.clock.seconds(),
            self.store,
            self.failures.append,
            lambda key, count: self.elsewhere.append((key, count)),
        )
        self.successResultOf(Deferred.fromCoroutine(ledger.start()))
        return ledger

    def use(self, prompt: int = 10, completion: int = 5, key: str = "k", role: str = "r") -> None:
        record = Record("id", "/", 0.0, 0.0, role=role, key=key)
        self.ledger.began(record)
        record.bill = Bill(prompt, completion, 4)
        self.ledger.ended(record)

    def stored(self) -> list[Usage]:
        return list(self.store.used.values())


class CountingTests(LedgerCase):
    """What is counted."""

    def test_sums(self) -> None:
        """Requests and tokens are added up by day, key and role."""
        self.use()
        self.use(20, 1)
        self.use(key="other")
        self.use(role="planner")
        mine = list(self.ledger.rows(7, "k"))
        self.assertEqual(
            mine,
            [Usage(TODAY, "k", "planner", 1, 10, 5, 4), Usage(TODAY, "k", "r", 2, 30, 6, 8)],
        )
        self.assertEqual(len(list(self.ledger.rows(7))), 3)
        self.assertEqual(self.ledger.tokens("k"), 51)

    def test_a_new_day(self) -> None:
        """At midnight UTC the sums begin anew, and those of before are still told."""
        self.use()
        self.clock.advance(DAY / 2)
        self.assertEqual(self.ledger.tokens("k"), 0)
        self.use()
        self.assertEqual([row.day for row in self.ledger.rows(2)], [TODAY, "2024-10-05"])
        self.assertEqual([row.day for row in self.ledger.rows(1)], ["2024-10-05"])

    def test_nonsense(self) -> None:
        """What a backend cannot have meant is bounded, and no quota is ever given back."""
        self.use(-5, 10**30)
        self.assertEqual(list(self.ledger.rows(1)), [Usage(TODAY, "k", "r", 1, 0, MOST, 0)])


class SavingTests(LedgerCase):
    """What is kept."""

    def test_every_few_seconds(self) -> None:
        """What changed is saved within seconds, once."""
        self.use()
        self.assertEqual(self.stored(), [])
        self.clock.pump([SAVE_EVERY] * 3)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 1, 10, 5, 4)])
        self.use()
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 2, 20, 10, 8)])

    def test_restart(self) -> None:
        """What was saved counts in the next life, so that a restart gives no quota back."""
        self.use()
        self.successResultOf(Deferred.fromCoroutine(self.ledger.stop()))
        self.ledger = self.new()
        self.assertEqual(self.ledger.tokens("k"), 15)
        self.use()
        self.assertEqual(self.ledger.tokens("k"), 30)
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 2, 20, 10, 8)])

    def test_no_store(self) -> None:
        """While the store fails it is counted on, its opener is told, and later all is saved."""
        self.store.failing = "disk full"
        self.use()
        self.clock.pump([SAVE_EVERY] * 3)
        self.use()
        self.assertEqual(self.ledger.tokens("k"), 30)
        self.assertEqual(self.failures, ["disk full"] * 3)
        self.open()
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 2, 20, 10, 8)])

    def test_no_store_at_the_start(self) -> None:
        """What an earlier life used counts as soon as the store can tell it."""
        self.store.used[(TODAY, "k", "r")] = Usage(TODAY, "k", "r", 1, 100, 0, 0)
        self.store.failing = "locked"
        self.ledger = self.new()
        self.use()
        self.assertEqual(self.ledger.tokens("k"), 15)
        self.open()
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.ledger.tokens("k"), 115)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 2, 110, 5, 4)])

    def test_while_it_is_saved(self) -> None:
        """What is used while the store is writing is neither lost nor saved twice."""
        self.store.gate = Deferred()
        self.use()
        self.clock.advance(SAVE_EVERY)
        self.use()
        gate, self.store.gate = self.store.gate, None
        gate.callback(None)
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.stored(), [Usage(TODAY, "k", "r", 2, 20, 10, 8)])

    def test_stop_waits_for_the_write_under_way(self) -> None:
        """The end waits for what is being saved, and not for ever."""
        self.store.gate = Deferred()
        self.use()
        self.clock.advance(SAVE_EVERY)
        stopping = Deferred.fromCoroutine(self.ledger.stop())
        self.assertNoResult(stopping)
        self.store.gate.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(len(self.stored()), 1)
        self.store.gate = Deferred()
        self.ledger = self.new()
        self.use()
        stopping = Deferred.fromCoroutine(self.ledger.stop())
        self.clock.pump([PATIENCE, PATIENCE])
        self.successResultOf(stopping)

    def test_a_bug_in_the_store(self) -> None:
        """An error that nobody thought of is logged, and it is tried again."""
        self.store.gate = Deferred()
        self.use()
        self.clock.advance(SAVE_EVERY)
        gate, self.store.gate = self.store.gate, None
        gate.errback(ZeroDivisionError())
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertEqual(len(self.stored()), 1)

    def test_old_days_are_let_go(self) -> None:
        """Memory holds a month, and the store the rest."""
        self.use()
        self.store.shared = True
        self.clock.advance(SAVE_EVERY)
        self.clock.advance((DAYS + 1) * DAY)
        self.assertEqual(list(self.ledger.rows(DAYS + 5)), [])
        self.assertEqual(len(self.stored()), 1)


class SharedTests(LedgerCase):
    """Several gateways with one store."""

    def setUp(self) -> None:
        super().setUp()
        self.store.shared = True

    def other(self, requests: int = 3, day: str = TODAY) -> None:
        row = Usage(day, "k", "r", requests, 100, 50, 0)
        self.successResultOf(Deferred.fromCoroutine(self.store.add_usage([row])))

    def test_tokens(self) -> None:
        """What a key uses elsewhere counts here within seconds, beside what it uses here."""
        self.use()
        self.other()
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.ledger.tokens("k"), 165)
        self.use()
        self.other()
        self.clock.advance(SAVE_EVERY)
        self.assertEqual(self.ledger.tokens("k"), 330)

    def test_requests(self) -> None:
        """Of those let in elsewhere each is told once, and of our own none."""
        self.use()
        self.other()
        self.clock.pump([SAVE_EVERY] * 3)
        self.assertEqual(self.elsewhere, [("k", 3)])
        self.other(2)
        self.other(1, day=YESTERDAY)
        self.clock.pump([SAVE_EVERY] * 3)
        self.assertEqual(sorted(self.elsewhere), [("k", 1), ("k", 2), ("k", 3)])

    def test_of_before(self) -> None:
        """What went through before this gateway began is no request of now."""
        self.other()
        self.ledger = self.new()
        self.assertEqual(self.elsewhere, [])
