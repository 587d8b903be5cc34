"""The promises of `rolemesh.gateway.store.postgres`, on a real PostgreSQL: the suite of all stores,
what gateways hear of each other, and the database going away."""

from typing import Any, ClassVar

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from rolemesh.gateway.store.interface import (
    Changes,
    Kept,
    NewerSchema,
    StoreFailed,
    encode_registration,
)
from rolemesh.gateway.store.key_shelf import KeyShelf
from rolemesh.gateway.store.schema import VERSION_TABLE, migrations
from tests.doubles import postgres
from tests.gateway.store import suite
from tests.gateway.store.suite import ignore, kept, whole
from tests.real.harness import need

PATIENCE = 60.0  # seconds; for what takes less than one on an idle machine


def need_postgres() -> None:
    """Skip or fail where there is no PostgreSQL or no driver."""
    try:
        import psycopg
    except ImportError:
        found = False
    else:
        found = bool(psycopg)
    need(found and postgres.present(), "PostgreSQL, or the extra rolemesh[postgres]")


class PostgresCase(suite.StoreCase):
    """One server for the tests of a class, whose tables are dropped before each test."""

    server: ClassVar[postgres.Postgres | None] = None
    _to_run: ClassVar[int] = 0

    def __init__(self, methodName: str = "runTest") -> None:
        super().__init__(methodName)
        type(self)._to_run += 1

    def setUp(self) -> None:
        need_postgres()
        self.addCleanup(self._leave)
        if type(self).server is None:
            type(self).server = postgres.Postgres()
            self.database.start()
        self.database.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        self.shelf = KeyShelf()
        self.heard: list[Changes] = []
        self.lost: list[str] = []

    @classmethod
    def _leave(cls) -> None:
        cls._to_run -= 1
        if cls._to_run == 0 and cls.server is not None:
            cls.server.remove()

    @property
    def database(self) -> postgres.Postgres:
        assert self.server is not None
        return self.server

    def make(self) -> Any:
        from rolemesh.gateway.store.postgres import PostgresStore

        return PostgresStore(reactor, self.database.url, self.shelf)

    async def listening(self) -> Any:
        store = self.make()
        await store.open(self.heard.append, self.lost.append)
        self.addCleanup(lambda: Deferred.fromCoroutine(store.close()))
        return store

    async def until(self, what: list[Any]) -> None:
        """Wait until there is something in it."""
        for _ in range(int(PATIENCE / 0.01)):
            if what:
                return
            await deferLater(reactor, 0.01)
        self.fail(f"nothing within {PATIENCE} s")


class PostgresStoreTests(PostgresCase, suite.StoreSuite):
    """The suite, and what a database has of its own."""

    async def test_newer_schema_L7(self) -> None:
        """Tables of a later RoleMesh are refused with their version."""
        store = await self.opened()
        await store.close()
        self.database.execute("INSERT INTO schema_version VALUES (999)")
        with self.assertRaises(NewerSchema) as caught:
            self.make().prepare()
        self.assertIn("version 999", str(caught.exception))
        with self.assertRaises(StoreFailed):
            await self.make().open(ignore, ignore)

    async def test_older_schema(self) -> None:
        """Tables of an earlier RoleMesh are brought up to date, with all that is in them."""
        first, *_ = migrations()
        self.database.execute(f"{first.sql}{VERSION_TABLE}; INSERT INTO schema_version VALUES (1)")
        registration = encode_registration(kept().registration)
        self.database.execute(
            "INSERT INTO nodes VALUES ('box2', 'one', 1, "
            f"'{registration}', '10.0.0.12', 'rmn_ab23cd45', 1700000000.25)"
        )
        store = await self.opened()
        await store.add_usage([suite.used(1)])
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_two_begin_at_once(self) -> None:
        """Gateways that start together make the tables once."""
        both = [deferToThread(self.make().prepare) for _ in range(4)]
        for each in both:
            await each
        self.assertEqual(await self.again(self.make()), set())

    async def test_usage_of_all(self) -> None:
        """What several gateways used is one sum, whoever asks, also when they write at once."""
        stores = [await self.opened() for _ in range(3)]
        rows = [suite.used(1), suite.used(2, "planner")]
        adding = [Deferred.fromCoroutine(each.add_usage(rows)) for each in stores * 5]
        for each in adding:
            await each
        found = [list(await each.usage("")) for each in stores]
        for store in stores:
            await store.close()
        self.assertEqual(found, [[suite.used(15), suite.used(30, "planner")]] * 3)

    def test_secret(self) -> None:
        """What it connects with is not in its repr."""
        from rolemesh.gateway.store.postgres import PostgresStore

        store = PostgresStore(reactor, "postgresql://me:s3cret@db/mesh", self.shelf)
        self.assertNotIn("s3cret", repr(store))


class ListenTests(PostgresCase):
    """What one gateway hears of another."""

    async def test_hears(self) -> None:
        """What another gateway keeps and forgets is heard, with all that it kept."""
        await self.listening()
        other = await self.opened()
        await other.write({"box2": kept()})
        await self.until(self.heard)
        [(node, found)] = self.heard.pop().items()
        assert isinstance(found, Kept)
        self.assertEqual((node, whole(found)), ("box2", whole(kept())))
        await other.write({"box2": None})
        await self.until(self.heard)
        await other.close()
        self.assertEqual(self.heard, [{"box2": None}])

    async def test_away(self) -> None:
        """A database that stops is noticed at once, fails, and works when it is opened again."""
        store = await self.listening()
        await store.write({"box2": kept()})
        self.database.stop()
        try:
            await self.until(self.lost)
            with self.assertRaises(StoreFailed):
                await store.write({"box3": kept("box3")})
            with self.assertRaises(StoreFailed):
                await store.open(ignore, ignore)
        finally:
            self.database.start()
        found = await store.open(self.heard.append, self.lost.append)
        self.assertEqual([each.node for each in found], ["box2"])
        await store.write({"box3": kept("box3")})
        self.assertEqual(len(self.lost), 1)

    async def test_one_connection_lost(self) -> None:
        """Whoever finds the store broken, who opened it is told, and opens it again."""
        store = await self.listening()
        await store.write({"box2": kept()})
        self.database.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'rolemesh' AND query NOT LIKE 'LISTEN%'"
        )
        with self.assertRaises(StoreFailed):
            await store.add_usage([suite.used(1)])
        self.assertEqual(len(self.lost), 1)
        await store.open(self.heard.append, self.lost.append)
        await store.add_usage([suite.used(1)])
        self.assertEqual(list(await store.usage("")), [suite.used(1)])

    async def test_closed(self) -> None:
        """A store that is closed hears nothing, and its closing is no loss."""
        store = await self.listening()
        await store.close()
        other = await self.opened()
        await other.write({"box2": kept()})
        await other.close()
        await deferLater(reactor, 0.1)
        self.assertEqual((self.heard, self.lost), ([], []))
