"""What every store promises, whatever is behind it."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import TestCase

from rolemesh.core.report import BackendReport, Registration, read_registration
from rolemesh.gateway.store.interface import (
    Kept,
    Meeting,
    Store,
    StoreFailed,
    Usage,
    encode_registration,
)


def kept(node: str = "box2", generation: int = 1, **more: Any) -> Kept:
    """A registration of one backend."""
    report = BackendReport("gpu0", "http://10.0.0.12:18100", **{"key": "k-é", "slots": 2, **more})
    told = Registration(node, instance="one", generation=generation, backends=(report,))
    return Kept(told, "10.0.0.12", "rmn_ab23cd45", 1700000000.25)


def ignore(_: object) -> None:
    """Hear of nothing."""


class StoreCase(TestCase):
    """A subclass says how to `make` a store: each time another object on the same database, as
    another process would have it."""

    def make(self) -> Store:
        raise NotImplementedError

    async def opened(self) -> Store:
        store = self.make()
        await store.open(ignore, ignore)
        return store

    async def again(self, store: Store) -> set[Any]:
        """What the next process finds."""
        await store.close()
        later = self.make()
        found = await later.open(ignore, ignore)
        await later.close()
        return set(map(whole, found))


class StoreSuite(StoreCase):
    """The promises of a `Store`."""

    async def test_nothing(self) -> None:
        """A new database has nothing in it, as often as it is opened."""
        store = await self.opened()
        found = await store.open(ignore, ignore)
        await store.close()
        self.assertEqual(list(found), [])

    async def test_keeps(self) -> None:
        """What was written is found by who opens it next, to the last character."""
        store = await self.opened()
        await store.write({"box2": kept(), "box3": kept("box3")})
        self.assertEqual(await self.again(store), {whole(kept()), whole(kept("box3"))})

    async def test_last_word(self) -> None:
        """The last word about a node holds, and other nodes are left alone."""
        store = await self.opened()
        await store.write({"box2": kept(), "box3": kept("box3")})
        changed = kept(generation=2, slots=8)
        await store.write({"box2": changed})
        self.assertEqual(await self.again(store), {whole(changed), whole(kept("box3"))})

    async def test_forgets(self) -> None:
        """A forgotten node is not found again, and to forget nobody is no mistake."""
        store = await self.opened()
        await store.write({"box2": kept(), "box3": kept("box3")})
        await store.write({"box2": None, "nobody": None})
        self.assertEqual(await self.again(store), {whole(kept("box3"))})

    async def test_plain(self) -> None:
        """A registration without a token or a known source comes back without them."""
        store = await self.opened()
        plain = Kept(Registration("box4", base_url="http://10.0.0.4:8080", roles=("coder",)))
        await store.write({"box4": plain})
        self.assertEqual(await self.again(store), {whole(plain)})

    async def test_extremes(self) -> None:
        """Whatever a registration may say can be kept: else one node would keep all from it."""
        told = (
            b'{"node":"box4","instance":"\'\\"%s$1 \xe2\x98\x83","generation":9223372036854775807,'
        )
        told += b'"base_url":"http://b","labels":{"a\\u0000":"\\uffff"}}'
        extreme = Kept(read_registration(told), "::1%eth0")
        store = await self.opened()
        await store.write({"box4": extreme})
        self.assertEqual(await self.again(store), {whole(extreme)})

    async def test_CVE_2026_42208_values_are_bound(self) -> None:
        """What is SQL, or a placeholder, is a text like any other wherever a client or a node may
        write: it is kept as it is, and does nothing."""
        store = await self.opened()
        told = evolve(kept(), token="'; DROP TABLE nodes; --", source="%s ? $1 :x")
        await store.write({"box2": told, "box3": kept("box3")})
        await store.write({"' OR '1'='1": None})
        hostile = Usage("2026-11-21", "x'); DELETE FROM usage; --", "' UNION SELECT 1 --", 1)
        await store.add_usage([used(1), hostile])
        self.assertLessEqual({hostile, used(1)}, set(await store.usage("2026-11-21")))
        self.assertEqual(await self.again(store), {whole(told), whole(kept("box3"))})

    async def test_closed(self) -> None:
        """A store that is not open says so, and can be opened again."""
        store = await self.opened()
        await store.close()
        with self.assertRaises(StoreFailed):
            await store.write({"box2": kept()})
        await store.open(ignore, ignore)
        await store.write({"box2": kept()})
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_adds_usage(self) -> None:
        """Figures of one day, key and role are added up; what is asked for begins with a day."""
        store = await self.opened()
        old, mine = Usage("2026-11-20", "rmk_a", "coder", 9), Usage("2026-11-21", "", "coder", 1)
        await store.add_usage([used(2, "planner"), used(1), old, used(1, "planner")])
        await store.add_usage([used(3), mine])
        found = await store.usage("2026-11-21")
        await store.close()
        self.assertEqual(list(found), [mine, used(4), used(3, "planner")])

    async def test_keeps_usage(self) -> None:
        """What was used outlives who counted it; more than a 32-bit number may be."""
        store = await self.opened()
        many = used(2**40)
        await store.add_usage([many])
        await store.close()
        later = await self.opened()
        await later.add_usage([])
        found = await later.usage("")
        await later.close()
        self.assertEqual(list(found), [many])

    async def test_prunes_usage(self) -> None:
        """What was used before a day is forgotten, the rest is not."""
        store = await self.opened()
        await store.add_usage([used(1), evolve(used(1), day="2025-12-31")])
        await store.prune_usage("2026-01-01")
        found = await store.usage("")
        await store.close()
        self.assertEqual(list(found), [used(1)])

    async def test_meets(self) -> None:
        """A gateway that no other one shares the store with is the one that leads."""
        store = await self.opened()
        met = await store.meet("a", "http://gw1.lan:8000")
        await store.leave("a")
        await store.close()
        self.assertEqual(met, Meeting(("http://gw1.lan:8000",), 1, leads=True))
        with self.assertRaises(StoreFailed):
            await store.meet("a", None)

    async def test_usage_closed(self) -> None:
        """Nothing is counted, or told, by a store that is not open."""
        store = await self.opened()
        await store.close()
        with self.assertRaises(StoreFailed):
            await store.add_usage([used(1)])
        with self.assertRaises(StoreFailed):
            await store.usage("")


def used(times: int, role: str = "coder") -> Usage:
    """What a key used on a day, for `times` like requests."""
    figures = (each * times for each in (1, 700, 90, 500))
    return Usage("2026-11-22", "rmk_ab23cd45", role, *figures)


def whole(kept: Kept) -> tuple[Any, ...]:
    """Every part of it, as `==` leaves some out."""
    return encode_registration(kept.registration), kept.source, kept.token, kept.at
