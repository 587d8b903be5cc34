"""How gateways know of each other through a real PostgreSQL, and which of them leads."""

from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater

from rolemesh.gateway.company import BEAT, Company
from rolemesh.gateway.fleet import Fleet
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.store.interface import Kept, Meeting, StoreFailed
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.store.presence import AWAY
from rolemesh.gateway.tidying import NODES, Tidying
from tests.gateway.store.suite import kept
from tests.gateway.store.test_postgres import PATIENCE, PostgresCase

ONE, TWO = "http://gw1.lan:8000", "http://gw2.lan:8000"


class PresenceTests(PostgresCase):
    """Two gateways, each with a store of its own on one database."""

    async def pair(self) -> tuple[Any, Any]:
        return await self.listening(), await self.listening()

    def age(self, gateway: str, seconds: float) -> None:
        """Let a gateway's last beat be so long ago."""
        self.database.execute(
            f"UPDATE gateways SET beat = now() - interval '{seconds} s' WHERE id = '{gateway}'"
        )

    async def test_meet(self) -> None:
        """Who says that it is there is known to the others, until it leaves."""
        one, two = await self.pair()
        self.assertEqual(await one.meet("a", ONE), Meeting((ONE,), 1, leads=True))
        self.assertEqual(await two.meet("b", TWO), Meeting((ONE, TWO), 2, leads=False))
        self.assertEqual((await one.meet("a", ONE)).urls, (ONE, TWO))
        await two.leave("b")
        self.assertEqual(await one.meet("a", ONE), Meeting((ONE,), 1, leads=True))

    async def test_away(self) -> None:
        """Who has said nothing for 30 seconds of the database's clock is gone."""
        one, two = await self.pair()
        await two.meet("b", TWO)
        self.age("b", AWAY - 5)
        self.assertEqual((await one.meet("a", ONE)).count, 2)
        self.age("b", AWAY + 1)
        self.assertEqual((await one.meet("a", ONE)).urls, (ONE,))
        self.assertEqual((await two.meet("b", TWO)).urls, (ONE, TWO))

    async def test_without_a_url(self) -> None:
        """Who tells no URL counts; two with one URL, a balancer's, are told once."""
        one, two = await self.pair()
        await one.meet("a", None)
        await one.meet("c", TWO)
        met = await two.meet("b", TWO)
        self.assertEqual((met.urls, met.count), ((TWO,), 3))

    async def test_rows_of_long_ago(self) -> None:
        """A run of yesterday leaves nothing behind."""
        one, _ = await self.pair()
        await one.meet("old", ONE)
        self.age("old", 2 * 86400)
        await one.meet("a", ONE)
        [found] = await one.run(_ids)
        self.assertEqual(found, ("a",))

    async def test_one_leads(self) -> None:
        """Of all gateways one leads, and goes on, however often they meet."""
        one, two = await self.pair()
        leads = [(await each.meet(id, None)).leads for each, id in ((one, "a"), (two, "b")) * 3]
        self.assertEqual(leads, [True, False] * 3)

    async def test_the_next_one_leads(self) -> None:
        """When the connection of the one that leads ends, however it ends, another one leads."""
        one, two = await self.pair()
        await one.meet("a", None)
        self.assertFalse((await two.meet("b", None)).leads)
        self.database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks"
            " WHERE locktype = 'advisory' AND objid = 7253142"
        )
        self.assertTrue((await two.meet("b", None)).leads)
        with self.assertRaises(StoreFailed):
            await one.meet("a", None)
        await one.open(self.heard.append, self.lost.append)
        self.assertFalse((await one.meet("a", None)).leads)

    async def test_closing_gives_the_lead_away(self) -> None:
        """A gateway that ends leads no longer."""
        one, two = await self.pair()
        await one.meet("a", None)
        await one.close()
        for _ in range(int(PATIENCE / 0.01)):  # the database sees it a moment later
            if (await two.meet("b", None)).leads:
                return
            await deferLater(reactor, 0.01)
        self.fail("the lead is kept")


class DutyTests(PostgresCase):
    """What one gateway does for all: here two, each with all that takes part in it."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.done: list[str] = []

    async def gateway(self, name: str) -> tuple[Company, Keeper]:
        """A month after `kept` was written."""
        store = self.make()
        keeper = Keeper(reactor, store, _restored, lambda _: None)
        await keeper.start()
        self.addCleanup(lambda: Deferred.fromCoroutine(keeper.stop()))
        month_later = kept().at + NODES.total_seconds()
        fleet = Fleet(self.clock, Registry(self.clock))
        tidying = Tidying(fleet, keeper, store, lambda: month_later, keeper.lost)

        async def duty() -> None:
            self.done.append(name)
            await tidying.do()

        company = Company(self.clock, store, name, None, duty)
        company.startService()
        self.addCleanup(company.stopService)
        return company, keeper

    async def wait(self, what: str, true: Callable[[], bool]) -> None:
        for _ in range(int(PATIENCE / 0.01)):
            if true():
                return
            await deferLater(reactor, 0.01)
        self.fail(f"not within {PATIENCE} s: {what}")

    async def test_once_for_all(self) -> None:
        """Of two gateways one forgets the node of long ago, and the other hears of it; when that
        one dies, the other one does the duty."""
        store = await self.opened()
        await store.write({"box2": kept(), "box3": evolve(kept("box3"), at=kept().at + 1)})
        await store.close()
        _, one = await self.gateway("a")
        await self.wait("the first has the duty", lambda: self.done == ["a"])
        company, two = await self.gateway("b")
        await self.wait("they have met", lambda: company.now.count == 2)
        await self.wait("it is heard", lambda: [each.node for each in two.kept()] == ["box3"])
        self.assertEqual(self.done, ["a"])
        await one.stop()
        await self.wait("the other one has the duty", lambda: self.beat() == ["a", "b"])

    def beat(self) -> list[str]:
        self.clock.advance(BEAT)
        return self.done


async def _restored(_: Kept) -> None:
    """Nothing is served here."""


def _ids(cursor: Any) -> Any:
    cursor.execute("SELECT id FROM gateways")
    return cursor.fetchall()
