"""The promises of `rolemesh.gateway.store.memory`."""

from rolemesh.gateway.store.interface import Kept, StoreFailed, Usage
from rolemesh.gateway.store.memory import MemoryStore
from tests.gateway.store import suite
from tests.gateway.store.suite import ignore


class MemoryStoreTests(suite.StoreSuite):
    """The suite, and that it can fail."""

    def setUp(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.used: dict[tuple[str, str, str], Usage] = {}

    def make(self) -> MemoryStore:
        store = MemoryStore(self.kept)
        store.used = self.used
        return store

    async def test_fails(self) -> None:
        """While it is failing nothing is kept and nothing is told, and then it has to be opened."""
        store = self.make()
        await store.open(ignore, ignore)
        store.failing = "full"
        with self.assertRaises(StoreFailed):
            await store.write({"box2": suite.kept()})
        with self.assertRaises(StoreFailed):
            await store.open(ignore, ignore)
        store.failing = ""
        with self.assertRaises(StoreFailed):
            await store.write({"box2": suite.kept()})
        self.assertEqual(list(await store.open(ignore, ignore)), [])
