"""The promises of `rolemesh.gateway.store.storebook`, on a real PostgreSQL: keys that a command
changes are those that gateways know."""

import threading
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from rolemesh.config.keybook import BookClosed, Records
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import ENTROPY, KeyKind, KeyRecord, mint, revoke
from tests.gateway.store.test_postgres import PATIENCE, PostgresCase

NOW = 1_000_000.0
TEXT, RECORD = mint(KeyKind.CLIENT, bytes([1]) * ENTROPY, NOW)
OTHER_TEXT, OTHER = mint(KeyKind.NODE, bytes([2]) * ENTROPY, NOW)


class StoreBookCase(PostgresCase):
    def book(self) -> Any:
        from rolemesh.gateway.store.postgres_server import PostgresServer
        from rolemesh.gateway.store.storebook import StoreBook

        return StoreBook(PostgresServer(self.database.url))

    async def put(self, *records: KeyRecord) -> None:
        await deferToThread(self.book().change, lambda _: (records, None))


class StoreBookTests(StoreBookCase):
    """The book by itself."""

    def test_change(self) -> None:
        """What `change` returns is there afterwards, and nothing else."""
        book = self.book()
        self.assertEqual(book.read(), ())
        self.assertEqual(book.change(lambda _: ((RECORD, OTHER), "made")), "made")
        self.assertEqual(set(book.read()), {RECORD, OTHER})
        book.change(lambda _: ([revoke(RECORD)], None))
        self.assertEqual(self.book().read(), (revoke(RECORD),))

    def test_failed_change(self) -> None:
        """A change that fails changes nothing."""
        book = self.book()
        book.change(lambda _: ((RECORD,), None))
        self.assertRaises(ZeroDivisionError, book.change, lambda _: ((), 1 / 0))
        self.assertEqual(book.read(), (RECORD,))

    def test_one_at_a_time(self) -> None:
        """Who changes it while another does waits, and is told what that one has left there."""
        self.book().read()
        found: list[Records] = []
        told = threading.Event()

        def look(records: Records) -> tuple[Records, None]:
            found.append(records)
            told.set()
            return records, None

        second = threading.Thread(target=lambda: self.book().change(look))

        def add(records: Records) -> tuple[Records, None]:
            second.start()
            self.assertFalse(told.wait(0.5))
            return (*records, RECORD), None

        self.book().change(add)
        second.join()
        self.assertEqual(found, [(RECORD,)])

    def test_away(self) -> None:
        """A database that is away is told as such, without what it was connected with."""
        self.database.stop()
        self.addCleanup(self.database.start)
        self.assertRaises(BookClosed, self.book().read)


class SpreadTests(StoreBookCase):
    """What gateways know of the keys."""

    def opens(self, text: str) -> bool:
        return self.shelf.ring().check(text, NOW) is not None

    async def until_it(self, opens: bool, text: str) -> None:
        for _ in range(int(PATIENCE / 0.01)):
            if self.opens(text) is opens:
                return
            await deferLater(reactor, 0.01)
        self.fail(f"not within {PATIENCE} s")

    async def test_known_when_open(self) -> None:
        """Who opens the store knows the keys before it knows the nodes that need them."""
        await self.put(RECORD)
        self.assertRaises(Refusal, self.shelf.ring)
        await self.listening()
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (True, False))

    async def test_spread(self) -> None:
        """A new, a revoked and a deleted key are heard of without being asked for."""
        await self.listening()
        await self.put(RECORD, OTHER)
        await self.until_it(True, TEXT)
        await self.until_it(True, OTHER_TEXT)
        await self.put(evolve(RECORD, disabled=True))
        await self.until_it(False, TEXT)
        await self.until_it(False, OTHER_TEXT)
        self.assertEqual(self.heard, [])

    async def test_away(self) -> None:
        """With the database away the keys of before open; what changed meanwhile counts later."""
        await self.put(RECORD)
        store = await self.listening()
        self.database.stop()
        try:
            await self.until(self.lost)
            self.assertTrue(self.opens(TEXT))
        finally:
            self.database.start()
        await self.put(revoke(RECORD))
        self.assertTrue(self.opens(TEXT))
        await store.open(self.heard.append, self.lost.append)
        self.assertFalse(self.opens(TEXT))

    async def test_unreadable(self) -> None:
        """A record that somebody broke opens nothing, and the others are known."""
        await self.put(RECORD, OTHER)
        self.database.execute(f"UPDATE keys SET record = 'x' WHERE id = '{RECORD.id}'")
        await self.listening()
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (False, True))
