"""The promises of `rolemesh.gateway.store.sqlite`: rows L2 and L4 to L7 among them."""

import os
import sqlite3
import stat
from contextlib import closing
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import provider

from rolemesh.gateway.store.interface import NewerSchema, StoreFailed
from rolemesh.gateway.store.schema import VERSION_TABLE, migrations
from rolemesh.gateway.store.sqlite import SqliteStore
from rolemesh.gateway.store.sqlite_file import BUSY, TABLES, SqliteFile
from tests.gateway.store import suite
from tests.gateway.store.suite import ignore, kept, whole

NOON = 1795348800.0  # 22 November 2026


class SqliteCase(suite.StoreCase):
    """Has a folder for the file, and does not wait long for who else has it."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "state.db"
        self.path.parent.mkdir()

    def make(self) -> SqliteStore:
        return SqliteStore(reactor, self.path, lambda: NOON, busy=0.05)

    def database(self) -> sqlite3.Connection:
        """The file as another program sees it."""
        return sqlite3.connect(self.path, isolation_level=None)

    def execute(self, sql: str) -> object:
        with closing(self.database()) as other:
            row: tuple[object, ...] | None = other.execute(sql).fetchone()
            return row[0] if row else None


class SqliteStoreTests(SqliteCase, suite.StoreSuite):
    """One file, well or ill."""

    async def test_private(self) -> None:
        """The file and what stands beside it are for its owner alone: backends' keys are there."""
        store = await self.opened()
        await store.write({"box2": kept()})
        modes = {stat.S_IMODE(file.stat().st_mode) for file in self.path.parent.iterdir()}
        await store.close()
        self.assertEqual(modes, {0o600})

    async def test_durable_L2(self) -> None:
        """A commit waits for the disk: the log is written ahead and synchronized each time."""
        store = self.make()
        await store.open(ignore, ignore)
        assert store._pool is not None
        [[synchronous]] = await store._pool.runQuery("PRAGMA synchronous")
        await store.close()
        self.assertEqual((synchronous, self.execute("PRAGMA journal_mode")), (2, "wal"))

    async def test_all_or_nothing(self) -> None:
        """Of changes that cannot all be written none is."""
        store = await self.opened()
        await store.write({"box2": kept()})
        self.execute("CREATE TRIGGER t AFTER DELETE ON nodes BEGIN SELECT raise(FAIL, 'no'); END")
        with self.assertRaises(StoreFailed):
            await store.write({"box3": kept("box3"), "box2": None})
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_locked_L5(self) -> None:
        """While another program has the file, writing fails; afterwards it works again."""
        store = await self.opened()
        with closing(self.database()) as other:
            other.execute("BEGIN IMMEDIATE")
            with self.assertRaises(StoreFailed) as caught:
                await store.write({"box2": kept()})
            self.assertIn("locked", str(caught.exception))
        await store.open(ignore, ignore)
        await store.write({"box2": kept()})
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_how_long_it_waits_L5(self) -> None:
        """A gateway, and a command that opens its file, wait two seconds for who else has it."""
        store = SqliteStore(reactor, self.path, lambda: NOON)
        await store.open(ignore, ignore)
        assert store._pool is not None
        found = await store._pool.runQuery("PRAGMA busy_timeout")
        await store.close()
        with SqliteFile(self.path).transaction() as cursor:
            found += cursor.execute("PRAGMA busy_timeout").fetchall()
        self.assertEqual(found, [(2000,), (2000,)])

    async def test_waits_for_who_has_it_L5(self) -> None:
        """A write waits for another program, two seconds as a rule, and the reactor does not."""
        self.assertEqual(BUSY, 2.0)
        store = SqliteStore(reactor, self.path, lambda: NOON, busy=60.0)
        await store.open(ignore, ignore)
        with closing(self.database()) as other:
            other.execute("BEGIN IMMEDIATE")
            writing = Deferred.fromCoroutine(store.write({"box2": kept()}))
            await deferLater(reactor, 0.3)
            self.assertNoResult(writing)
            other.execute("ROLLBACK")
            await writing
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_full_L4(self) -> None:
        """A full disk is told as such, and what was kept before is still there."""
        store = self.make()
        await store.open(ignore, ignore)
        await store.write({"box2": kept()})
        assert store._pool is not None
        await store._pool.runQuery("PRAGMA max_page_count = 1")
        long = {f"n{each}": kept(f"n{each}", model="m" * 250) for each in range(200)}
        with self.assertRaises(StoreFailed) as caught:
            await store.write(long)
        self.assertIn("full", str(caught.exception))
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_closed_to_us(self) -> None:
        """A file that cannot be made is told, not raised as something else."""
        self.path.parent.rmdir()
        with self.assertRaises(StoreFailed):
            await self.make().open(ignore, ignore)

    async def test_newer_schema_L7(self) -> None:
        """A file of a later RoleMesh is refused with its version, and left as it is."""
        await (await self.opened()).close()
        self.execute("INSERT INTO schema_version VALUES (999)")
        with self.assertRaises(NewerSchema) as caught:
            self.make().prepare()
        self.assertIn("version 999", str(caught.exception))
        self.assertEqual(self.execute("SELECT max(version) FROM schema_version"), 999)

    async def test_older_schema(self) -> None:
        """A file of an earlier RoleMesh is brought up to date, with all that is in it."""
        first, *_ = migrations()
        with closing(self.database()) as other:
            other.executescript(
                f"{first.sql}{VERSION_TABLE}; INSERT INTO schema_version VALUES (1)"
            )
            TABLES.write(other.cursor(), {"box2": kept()})
        store = await self.opened()
        await store.add_usage([suite.used(1)])
        self.assertEqual(await self.again(store), {whole(kept())})

    async def test_unreadable_row(self) -> None:
        """A row that makes no sense is passed over; the others count."""
        store = await self.opened()
        await store.write({"box2": kept(), "box3": kept("box3")})
        self.execute("UPDATE nodes SET registration = '{' WHERE node = 'box2'")
        self.assertEqual(await self.again(store), {whole(kept("box3"))})


class CorruptTests(SqliteCase):
    """L6: a broken file never keeps a gateway from serving."""

    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []

        @provider(ILogObserver)
        def hear(event: LogEvent) -> None:
            self.said.append(str(event.get("aside", "")))

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    async def assert_set_aside(self, was: bytes) -> None:
        self.assertEqual(await self.again(self.make()), set())
        [aside] = self.path.parent.glob("state.db.corrupt-*")
        self.assertEqual(aside.name, "state.db.corrupt-20261122T120000Z")
        self.assertEqual(aside.read_bytes(), was)
        self.assertIn(str(aside), self.said)

    async def test_no_database_L6(self) -> None:
        """A file that is no database is set aside, and an empty one begins."""
        self.path.write_bytes(b"this is a shopping list, " * 400)
        await self.assert_set_aside(self.path.read_bytes())

    async def test_broken_pages_L6(self) -> None:
        """A database with broken pages is found out before anything is read from it."""
        store = await self.opened()
        await store.write({f"n{each}": kept(f"n{each}") for each in range(200)})
        await store.close()
        content = bytearray(self.path.read_bytes())
        content[4096 * 3 : 4096 * 5] = os.urandom(4096 * 2)
        self.path.write_bytes(content)
        await self.assert_set_aside(bytes(content))

    async def test_set_aside_works_L6(self) -> None:
        """What begins then keeps what it is told, and nothing is set aside again."""
        self.path.write_bytes(b"no database" * 400)
        store = await self.opened()
        await store.write({"box2": kept()})
        self.assertEqual(await self.again(store), {whole(kept())})
        self.assertEqual(len(list(self.path.parent.glob("*.corrupt-*"))), 1)
