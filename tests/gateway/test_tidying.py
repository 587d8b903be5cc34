"""What is thrown away, and what is not, however long ago it was written."""

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.health import Sign
from rolemesh.core.model import Backend, BackendId
from rolemesh.gateway.fleet import LEASE, Fleet
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.store.interface import Kept, Usage
from rolemesh.gateway.store.keeper import GATHER, RETRY, Keeper
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.tidying import DAY, NODES, USAGE, Tidying
from tests.gateway.store.suite import kept

NOW = 1_800_000_000.0
MONTH = NODES.total_seconds()


class TidyingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.now = Clock(), NOW
        self.registry = Registry(self.clock)
        self.fleet = Fleet(self.clock, self.registry)
        self.store = MemoryStore({"box2": evolve(kept(), at=NOW)})
        self.keeper = Keeper(self.clock, self.store, self.restore, lambda _: None)
        self.tidying = Tidying(
            self.fleet, self.keeper, self.store, lambda: self.now, self.keeper.lost
        )
        self.result(self.keeper.start())

    def result(self, work: Any) -> Any:
        return self.successResultOf(Deferred.fromCoroutine(work))

    async def restore(self, found: Kept) -> None:
        self.fleet.restore(found.registration, self.backends(found), shared=True)

    def backends(self, found: Kept) -> list[Backend]:
        node = found.registration.node
        reports = found.registration.backends
        return [Backend(BackendId(node, each.id), each.base_url) for each in reports]

    def tidy(self, later: float) -> list[str]:
        """The nodes that are kept when so much time has passed."""
        self.now = NOW + later
        self.result(self.tidying.do())
        self.clock.advance(GATHER)
        return list(self.store.kept)

    def test_long_gone(self) -> None:
        """A node of which nothing was seen for a month is forgotten, here too, and not before."""
        self.assertEqual(self.tidy(MONTH - 1), ["box2"])
        self.assertEqual(self.store.kept["box2"].at, NOW)
        self.assertEqual(self.tidy(MONTH), [])
        self.assertIsNone(self.fleet.get("box2"))

    def test_speaks(self) -> None:
        """A node that reports is dated anew once a day, and so outlives any month."""
        told = kept().registration
        self.fleet.register(told, self.backends(kept()))
        self.tidy(DAY - 1)
        self.assertEqual(self.store.kept["box2"].at, NOW)
        self.assertEqual(self.tidy(MONTH), ["box2"])
        self.assertEqual(self.store.kept["box2"].at, NOW + MONTH)
        self.clock.advance(LEASE)
        self.fleet.tick()
        self.assertEqual(self.tidy(2 * MONTH - 1), ["box2"])
        self.assertEqual(self.tidy(2 * MONTH), [])

    def test_answers(self) -> None:
        """So does one that speaks to another gateway, or has no agent, while its checks pass."""
        self.registry.sign(BackendId("box2", "gpu0"), Sign.CHECK_OK)
        self.assertEqual(self.tidy(MONTH), ["box2"])
        self.assertEqual(self.store.kept["box2"].at, NOW + MONTH)

    def test_usage(self) -> None:
        """What was used is known for 400 days."""
        for day in ("2025-12-10", "2025-12-11"):
            self.result(self.store.add_usage([Usage(day, "", "coder", 1)]))
        self.tidy(0.0)
        self.assertEqual(USAGE.days, 400)
        self.assertEqual([row.day for row in self.result(self.store.usage(""))], ["2025-12-11"])

    def test_L4_store_away(self) -> None:
        """A store that is away is tidied when it is back."""
        self.store.failing = "away"
        self.tidy(MONTH)
        self.assertEqual(self.keeper.trouble, "away")
        self.store.failing = ""
        self.clock.advance(RETRY)
        self.assertEqual(list(self.store.kept), [])
