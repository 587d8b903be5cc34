"""The gateway's own life with many clients, and with a clock that jumps: rows L1, L8 and L15."""

from socket import SO_RCVBUF, SO_SNDBUF, SOL_SOCKET
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from rolemesh.core.model import QueueLimits
from rolemesh.gateway import asking, wiring
from rolemesh.gateway import life as life_module
from tests.doubles import raw
from tests.doubles.mesh import CHAT, Stalls
from tests.doubles.slots import Speed
from tests.gateway.memory import GatewayCase, whole
from tests.gateway.memory import role as memory_role
from tests.gateway.row_case import RowCase, role

MANY = 100
HOUR, DAY = 3600.0, 86400.0


class DrainTests(RowCase):
    """L1, P9: SIGTERM under many streams, on real sockets."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(life_module, "GRACE", 0.3)

    async def streams(self, length: int, speed: float, drain: float) -> list[raw.RawClient]:
        """So many streams that have begun, and a gateway that has just been told to stop."""
        self.backend = self.fake(slots=2 * MANY, speed=Speed(decode=speed), length=length)
        life = await self.mesh(role(self.backend), drain=drain)
        self.kept = await self.connect()
        self.kept.get("/health", close=False)
        clients = [await self.send(stream=True, max_tokens=length) for _ in range(MANY)]
        await gatherResults([client.seen(b"data:") for client in clients])
        self.stopped: Deferred[Any] = life.stopService()
        return clients

    async def test_L1_streams_end_in_peace(self) -> None:
        """A hundred streams that need a second come whole, and then the gateway has stopped."""
        clients = await self.streams(length=30, speed=40, drain=20.0)
        for answer in await gatherResults([client.closed for client in clients]):
            self.assertTrue(answer.finished)
            self.assertEqual(answer.data_lines[-1], b"[DONE]")
        self.kept.leave()
        await self.stopped

    async def test_L1_endless_streams_are_told(self) -> None:
        """A hundred that do not end get the error event, and none of them looks whole."""
        clients = await self.streams(length=100_000, speed=5, drain=0.5)
        with Stalls() as stalls:
            began = reactor.seconds()
            answers = await gatherResults([client.closed for client in clients])
            self.kept.leave()
            await self.stopped
            took = reactor.seconds() - began
        self.assertLess(took - stalls.seconds, 0.5 + 2.0)
        for answer in answers:
            self.assert_broken_off(answer, "upstream_disconnected")
            self.assertIn("stopping", answer.events[-1]["error"]["message"])

    async def test_P9_a_client_that_does_not_read(self) -> None:
        """Who never reads its whole answer is cut off two seconds after the drain at the latest,
        and nothing of it is left."""
        names = tuple(f"{n:0200}" for n in range(5000))  # 1 MB in the list of models
        life = await self.mesh(role(self.fake(), aliases=names), drain=0.5)
        client = await self.connect()
        client.get("/health", close=False)
        await client.seen(b"ok")
        client.transport.pauseProducing()
        own, channels = client.transport.getHost().port, life._site.channels
        (channel,) = (each for each in channels if each.getPeer().port == own)
        client.transport.socket.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        channel.transport.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, 4096)
        client.get("/v1/models", close=False)
        await self.until("it is answered", lambda: bool(channel.transport.dataBuffer))
        with Stalls() as stalls:
            began = reactor.seconds()
            await life.stopService()
            took = reactor.seconds() - began
        self.assertLess(took - stalls.seconds, 0.5 + 2.0)
        await self.until("no connection is left", lambda: not channels)
        client.transport.resumeProducing()
        self.assertFalse((await client.closed).finished)

    async def test_L1_new_requests_and_kept_connections(self) -> None:
        """While it drains `/ready` is 503 at once, and a request ends its connection."""
        self.patch(life_module, "GRACE", 10.0)
        clients = await self.streams(length=100_000, speed=5, drain=1.0)
        ready = await raw.get(reactor, self.port, "/ready")
        self.assertEqual((ready.status, ready.json["status"]), (503, "draining"))
        self.kept.data = b""
        self.kept.post(CHAT, self.body(), close=False)
        refused = await self.kept.closed
        self.assert_refused(refused, 503, "draining", retry=True)
        self.assertEqual(refused.headers["connection"].lower(), "close")
        self.assertEqual(len(self.backend.work), MANY)
        for client in clients:
            client.leave()
        await self.stopped


class Wall:
    """A clock on the wall that anybody may set."""

    def __init__(self) -> None:
        self.now = 1.8e9

    def time(self) -> float:
        return self.now


class WallClockTests(GatewayCase):
    """L8: what time of day it is decides nothing but what is written down."""

    def setUp(self) -> None:
        super().setUp()
        self.wall = Wall()
        self.patch(wiring, "time", self.wall)
        self.a, self.b = self.net.server(), self.net.server()
        one_slot = memory_role(self.a, slots=1, queue=QueueLimits(wait=5.0))
        self.start(one_slot, memory_role(name="writer", use=()))
        node = {"node": "box2", "instance": "one", "roles": ["writer"]}
        backend = {"id": "gpu0", "base_url": self.b.url, "model": "qwen", "roles": ["writer"]}
        self.post("/v1/nodes/register", {**node, "backends": [backend]})
        self.net.spend(2)

    def test_L8_jumps(self) -> None:
        """An hour back, an hour on and a day on: nobody loses a lease, a slot or an answer."""
        for jump in (-HOUR, HOUR, DAY):
            client, behind = self.stream(), self.ask()
            self.a.work[-1].head()
            self.a.work[-1].text("one")
            self.wall.now += jump
            self.net.spend(3)
            self.assertEqual(self.ready("writer"), (1, 1))
            self.assertEqual(self.ready("coder"), (1, 1))
            self.a.work[-1].text("two", finish="stop")
            self.a.work[-1].done()
            self.turn()
            self.assertEqual((client.answer.text, client.answer.finished), ("onetwo", True))
            self.a.work[-1].json(200, whole("hi"))
            self.turn()
            self.assertEqual(behind.answer.status, 200)
            for line in self.lines():
                self.assertLess(abs(line["event.duration"]), 60e9)

    def test_L8_what_is_due_comes(self) -> None:
        """Set back, it puts off neither the end of a wait nor that of a lease."""
        self.stream()
        waiting = self.ask()
        self.wall.now -= DAY
        self.net.spend(5.5)
        self.assert_refused(waiting.answer, 429, "role_saturated")
        self.net.spend(15)
        self.assertEqual(self.ready("writer"), (0, 1))


class BugTests(RowCase):
    """L15: a bug costs one request, and its trace is the operator's alone."""

    async def test_L15_one_request_fails_and_the_next_is_served(self) -> None:
        """500 with the request's id, nothing of the cause; a request beside it goes on."""
        fake = self.fake(slots=4, speed=Speed(decode=50))
        await self.mesh(role(fake))
        beside = self.ask(stream=True)
        await self.until("it is asked", lambda: bool(fake.running))

        def break_down(*_: object) -> None:
            raise ZeroDivisionError("rmk_abcdefgh of the secret prompt")

        broken = self.patch(asking, "read", break_down)
        answer = await self.ask()
        broken.restore()
        self.assert_refused(answer, 500, "internal_error", retry=False)
        self.assertIn(answer.headers["x-request-id"], answer.json["error"]["message"])
        self.assertNotIn(b"secret", answer.data)
        self.assert_served(await beside, "coder")
        self.assert_served(await self.ask(), "coder")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
