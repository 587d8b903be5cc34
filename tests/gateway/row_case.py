"""What the row tests add to `MeshCase`: roles of any kind, keys, and clients that leave."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.listeners import Listener
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from rolemesh.core.model import Policy, Role, Target
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.wiring import build
from tests.doubles import raw
from tests.doubles.fakellama import Fakellama
from tests.doubles.mesh import CHAT, MeshCase, Stalls, patient

FREE_WITHIN = 0.25  # seconds from a client's last packet to the upstream's close


class Morning:
    """A time of day at which no day ends."""

    def time(self) -> float:
        return 1.8e9  # 8 in the morning


class RowCase(MeshCase):
    """Tests of a gateway with whatever roles and settings they want."""

    async def mesh(self, *roles: Role, **settings: Any) -> GatewayLife:
        """A gateway with these roles, once every backend of them is ready."""
        told = GatewaySettings(
            **{"drain": 1.0, **settings}, roles={each.name: each for each in roles}
        )
        life, _ = build(reactor, told, Path("models.yaml"), [Listener("tcp:0:interface=127.0.0.1")])
        life.startService()
        self.addCleanup(lambda: life.stopService() if life.running else None)
        await self.until("it listens", lambda: bool(life.listening.ports))
        address: Any = life.listening.ports[0].getHost()
        self.port = address.port
        await self.until("all are ready", self._all_ready)
        return life

    async def _all_ready(self) -> bool:
        answer = await raw.get(reactor, self.port, "/ready")
        if "roles" not in answer.json:  # there are keys, and this shows none
            return answer.status == 200
        return all(role["ready"] == role["total"] for role in answer.json["roles"].values())

    def key(self, **more: Any) -> tuple[dict[str, str], Path]:
        """The headers of a client with a key of its own, and the file that knows the key."""
        text, record = mint(KeyKind.CLIENT, b"k" * ENTROPY, 1.0)
        path = Path(self.mktemp())
        write_private(path, key_file_text([evolve(record, **{"roles": "*", **more})]))
        return {"Authorization": f"Bearer {text}"}, path

    async def send(self, headers: Mapping[str, str] = raw.NONE, **more: Any) -> raw.RawClient:
        """A chat under way, with headers of its own."""
        client = await self.connect()
        client.post(CHAT, self.body(**more), headers)
        return client

    async def connect(self) -> raw.RawClient:
        """A client that is gone when the test is over."""
        client = await raw.connect(reactor, self.port)
        self.addCleanup(client.leave)
        return client

    async def say(self, data: bytes) -> raw.Answer:
        """What comes back for these very bytes until the gateway ends the connection."""
        client = await self.connect()
        client.transport.write(data)
        return await client.closed

    async def waits(self, id: str) -> bool:
        """Whether a request that nothing answers yet has come as far as a queue."""
        found = await raw.get(reactor, self.port, f"/v1/requests/{id}")
        return found.status == 200

    async def record(self, id: str) -> dict[str, Any]:
        """What the gateway remembers of a request."""
        found: dict[str, Any] = (await raw.get(reactor, self.port, f"/v1/requests/{id}")).json
        return found

    async def assert_freed(self, client: raw.RawClient, fake: Fakellama, *, reset: bool) -> None:
        """When the client leaves, the backend's connection is closed in time."""
        (call,) = fake.running
        with Stalls() as stalls:
            left = reactor.seconds()
            client.leave(reset=reset)
            await self.until("the upstream is closed", lambda: not fake.running)
        self.assertEqual(call.outcome, "left")
        assert call.ended_at is not None
        self.assertLess(call.ended_at - left - stalls.seconds, FREE_WITHIN)

    async def assert_slot_free(self, by: str) -> None:
        """The next request is served at once, by the same backend."""
        answer = await self.ask()
        self.assert_served(answer, by)
        self.assertLess(int(answer.headers["x-rolemesh-queue-ms"]), 100)


def role(
    *backends: Fakellama | str, name: str = "coder", slots: int | None = None, **more: Any
) -> Role:
    """A role over doubles or URLs, the first one first."""
    urls = [each if isinstance(each, str) else each.url for each in backends]
    use = tuple(Target(url=url, slots=slots) for url in urls)
    usual = {"use": use, "policy": Policy.FIRST, "timeouts": patient()}
    return Role(name, **{**usual, **more})
