"""A key's limits at two gateways that share a PostgreSQL, which goes away in the middle."""

from pathlib import Path
from typing import Any

from twisted.internet import reactor

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener
from rolemesh.gateway import usage, wiring
from rolemesh.gateway.wiring import build
from tests.doubles import raw
from tests.doubles.mesh import sleep
from tests.doubles.postgres import Postgres
from tests.gateway.row_case import Morning, RowCase, role
from tests.gateway.store.test_postgres import need_postgres

SOON = 0.2  # seconds between two looks at the database, in these tests


class SharedLimitsTests(RowCase):
    """What one gateway lets in counts at the other within a few seconds."""

    def setUp(self) -> None:
        super().setUp()
        need_postgres()
        self.patch(usage, "SAVE_EVERY", SOON)
        self.database = Postgres()
        self.addCleanup(self.database.remove)
        self.database.start()
        self.backend = self.fake(slots=8)

    async def another(self, keys: Path) -> int:
        """The port of one more gateway on the database."""
        from rolemesh.gateway.store.key_shelf import KeyShelf
        from rolemesh.gateway.store.postgres import PostgresStore

        settings = GatewaySettings(roles={"coder": role(self.backend)}, keys=keys, drain=0.1)
        store = PostgresStore(reactor, self.database.url, KeyShelf())
        store.prepare()
        listener = Listener("tcp:0:interface=127.0.0.1")
        life, _ = build(reactor, settings, Path("models.yaml"), [listener], store)
        life.startService()
        self.addCleanup(life.stopService)
        await self.until("it listens", lambda: bool(life.listening.ports))
        address: Any = life.listening.ports[0].getHost()
        self.port = address.port
        await self.until("all are ready", self._all_ready)
        return self.port

    async def statuses(self, port: int, headers: dict[str, str], count: int) -> list[int]:
        self.port = port
        return [(await (await self.send(headers)).closed).status for _ in range(count)]

    async def rows(self, port: int, headers: dict[str, str]) -> Any:
        return (await raw.get(reactor, port, "/v1/usage", headers)).json["data"]

    async def test_C26_requests(self) -> None:
        """A minute's requests that went through the one are not to be had at the other as well."""
        headers, keys = self.key(rpm=3)  # which make a new one every twenty seconds
        one, two = [await self.another(keys) for _ in range(2)]
        self.assertEqual(await self.statuses(one, headers, 2), [200] * 2)
        await self.until("it is told", lambda: self.told(two, headers, 2))
        self.assertEqual(await self.statuses(two, headers, 3), [200, 429, 429])

    async def told(self, port: int, headers: dict[str, str], requests: int) -> bool:
        return bool(sum(row["requests"] for row in await self.rows(port, headers)) == requests)

    async def test_C26_tokens(self) -> None:
        """So it is with a day's tokens, and a gateway that comes later knows of them too."""
        self.patch(wiring, "time", Morning())
        headers, keys = self.key(tokens_per_day=1)
        one, two = [await self.another(keys) for _ in range(2)]
        self.assertEqual(await self.statuses(one, headers, 1), [200])
        await self.until("it is told", lambda: self.told(two, headers, 1))
        self.assertEqual(await self.statuses(two, headers, 1), [429])
        three = await self.another(keys)
        self.assertEqual(await self.statuses(three, headers, 1), [429])
        self.assertEqual(await self.rows(three, headers), await self.rows(one, headers))

    async def test_database_away(self) -> None:
        """With the database away each counts on for itself, and then they tell each other all."""
        headers, keys = self.key(rpm=1000)
        one, two = [await self.another(keys) for _ in range(2)]
        await self.statuses(one, headers, 1)
        await self.until("it is told", lambda: self.told(two, headers, 1))
        self.database.stop()
        self.assertEqual(await self.statuses(one, headers, 2), [200, 200])
        self.assertEqual(await self.statuses(two, headers, 3), [200] * 3)
        await sleep(2 * SOON)
        self.assertTrue(await self.told(one, headers, 3))
        self.database.start()
        for port in (one, two):
            await self.until("it is told", lambda port=port: self.told(port, headers, 6), 20.0)
