"""What every store promises, whatever is behind it."""

from typing import Any

from twisted.trial.unittest import TestCase

from rolemesh.core.report import BackendReport, Registration
from rolemesh.gateway.store.interface import Kept, Store, StoreFailed, encode_registration


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

    async def test_closed(self) -> None:
        """A store that is not open says so, and can be opened again."""
        store = await self.opened()
        await store.close()
        with self.assertRaises(StoreFailed):
            await store.write({"box2": kept()})
        await store.open(ignore, ignore)
        await store.write({"box2": kept()})
        self.assertEqual(await self.again(store), {whole(kept())})


def whole(kept: Kept) -> tuple[Any, ...]:
    """Every part of it, as `==` leaves some out."""
    return encode_registration(kept.registration), kept.source, kept.token, kept.at
