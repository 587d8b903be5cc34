"""The promises of `rolemesh.gateway.store.places`, with real files and a real PostgreSQL."""

import stat
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.keybook import FileBook
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.gateway.store.contents import Contents, copying
from rolemesh.gateway.store.interface import StoreFailed, Usage
from rolemesh.gateway.store.places import DATABASE, GATEWAY, Folder, KeyFile
from rolemesh.gateway.store.sqlite_file import SqliteFile
from rolemesh.state import InUse, StateFolder
from tests.gateway.store.suite import kept, used
from tests.gateway.store.test_postgres import PostgresCase

KEY, TOKEN, ADMIN = (
    mint(kind, bytes([number]) * ENTROPY, 1_000_000)[1]
    for number, kind in enumerate((KeyKind.CLIENT, KeyKind.NODE, KeyKind.ADMIN))
)


def copy(source: Any, target: Any) -> Contents:
    """Copy all, and return what is there then."""
    found = source.read()
    target.put(lambda there: copying(found, there).wanted)
    after: Contents = target.read()
    return after


def filled(path: Path) -> Folder:
    """A state folder in which there is something of everything."""
    path.mkdir()
    file = SqliteFile(path / DATABASE)
    file.prepare()
    with file.transaction() as cursor:
        file.tables.write(cursor, {"box2": kept(), "box3": kept("box3")})
        file.tables.add_usage(cursor, [used(2), used(1, "planner")])
    FileBook(path / "keys.yaml").change(lambda _: ((KEY, ADMIN), None))
    FileBook(path / "nodes.yaml").change(lambda _: ((TOKEN,), None))
    return Folder(path)


class FolderTests(SynchronousTestCase):
    """State folders and key files."""

    def setUp(self) -> None:
        self.folder = filled(Path(self.mktemp()))
        self.other = Folder(Path(self.mktemp()))

    def test_all(self) -> None:
        """All that is in a folder comes to another, as it was, private, each key in its file."""
        before = self.folder.read()
        self.assertEqual([len(part) for part in before.parts.values()], [2, 3, 2])
        self.assertEqual(copy(self.folder, self.other), before)
        self.assertEqual(self.folder.read(), before)
        self.assertEqual(FileBook(self.other.path / "nodes.yaml").read(), (TOKEN,))
        modes = {stat.S_IMODE(file.stat().st_mode) for file in self.other.path.iterdir()}
        self.assertEqual(modes, {0o600})

    def test_running(self) -> None:
        """A folder is copied from while a gateway has it, and not copied to."""
        with StateFolder(self.folder.path, GATEWAY).held():
            self.assertEqual(len(self.folder.read().nodes), 2)
            self.assertRaises(InUse, copy, self.other, self.folder)

    def test_broken(self) -> None:
        """A broken database is told, and left where it is; nothing is copied."""
        path = self.folder.path / DATABASE
        path.write_bytes(b"no database " * 400)
        self.assertRaises(StoreFailed, self.folder.read)
        self.assertRaises(StoreFailed, copy, self.other, self.folder)
        self.assertEqual(path.read_bytes(), b"no database " * 400)

    def test_unreadable_row(self) -> None:
        """A registration that this RoleMesh cannot read is copied all the same."""
        file = SqliteFile(self.folder.path / DATABASE)
        with file.transaction() as cursor:
            cursor.execute("UPDATE nodes SET registration = 'of later' WHERE node = 'box3'")
        self.assertEqual(copy(self.folder, self.other).nodes["box3"][3], "of later")

    def test_key_file(self) -> None:
        """A file of keys by itself is a source as well."""
        found = copy(KeyFile(self.folder.path / "nodes.yaml"), self.other)
        self.assertEqual((found.keys, found.nodes), ({TOKEN.id: TOKEN}, {}))


class DatabaseTests(PostgresCase):
    """A database that gateways share."""

    def setUp(self) -> None:
        super().setUp()
        from rolemesh.gateway.store.places import Database
        from rolemesh.gateway.store.postgres_server import PostgresServer

        self.folder = filled(Path(self.mktemp()))
        self.place = Database(PostgresServer(self.database.url))

    async def test_there_and_back(self) -> None:
        """All goes into a database and comes back as it was; gateways that run hear of it."""
        store = await self.listening()
        before = self.folder.read()
        self.assertEqual(copy(self.folder, self.place), before)
        await self.until(self.heard)
        self.assertEqual(list(self.heard[0]), ["box2", "box3"])
        self.assertEqual(list(await store.usage("")), [used(2), used(1, "planner")])
        self.assertEqual(copy(self.place, Folder(Path(self.mktemp()))), before)

    async def test_counted_once(self) -> None:
        """What was copied twice, and counted on at both places, is one sum of all of it."""
        store = await self.opened()
        copy(self.folder, self.place)
        await store.add_usage([used(10)])
        file = SqliteFile(self.folder.path / DATABASE)
        with file.transaction() as cursor:
            file.tables.add_usage(cursor, [used(5)])
        copy(self.folder, self.place)
        copy(self.folder, self.place)
        found: list[Usage] = list(await store.usage(""))
        await store.close()
        self.assertEqual(found, [used(17), used(1, "planner")])
