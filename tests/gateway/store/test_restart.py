"""A gateway that comes back with what its store has kept: rows L3, L4, P10, P11, N2 and N8."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from rolemesh.config.gateway import GatewaySettings, NodeRules
from rolemesh.config.keyfile import key_file_text
from rolemesh.config.listeners import Listener
from rolemesh.config.private import write_private
from rolemesh.core.keys import ENTROPY, KeyKind, mint, revoke
from rolemesh.core.model import Role, Target
from rolemesh.gateway.fleet import FORGET, LEASE
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.store import keeper
from rolemesh.gateway.store.interface import Hear, Kept, Lose
from rolemesh.gateway.store.keeper import RETRY
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.wiring import build
from tests.gateway.memory import GatewayCase, Net

REGISTER = "/v1/nodes/register"
CODER = Role("coder", use=(Target(model="qwen"),))


class GatedStore(MemoryStore):
    """Opens when the test lets it; what another gateway writes is told by `hear`."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: Deferred[None] | None = None

    async def open(self, hear: Hear, lose: Lose, /) -> Sequence[Kept]:
        self.hear = hear
        if self.gate is not None:
            await self.gate
        return await super().open(hear, lose)


class RestartCase(GatewayCase):
    """A gateway whose node `box2` serves `coder`, and what of it survives."""

    def setUp(self) -> None:
        super().setUp()
        self.store = GatedStore()
        self.server = self.net.server()
        self.rules = NodeRules()
        self.begin()

    def begin(self) -> GatewayLife:
        settings = GatewaySettings(roles={"coder": CODER}, nodes=self.rules)
        where = [Listener(self.listen)]
        self.life, _ = build(self.net, settings, Path("models.yaml"), where, self.store)
        self.life.startService()
        return self.life

    def kill(self) -> None:
        """The process is gone, and with it its connections and timers; time goes on elsewhere."""
        servers, now = self.net.servers, self.net.seconds()
        self.net = Net()
        self.net.servers = servers
        self.net.rightNow = now
        for server in servers.values():
            server.net = self.net

    def full(self, **more: Any) -> dict[str, Any]:
        backend = {"id": "gpu0", "base_url": self.server.url, "model": "qwen", "state": "ready"}
        backend |= more.pop("backend", {})
        return {"node": "box2", "instance": "one", "generation": 5, "backends": [backend], **more}

    def plain(self, **more: Any) -> dict[str, Any]:
        return {"node": "box3", "base_url": self.server.url, "roles": ["coder", "writer"], **more}

    def register(self, told: object, **headers: str) -> int:
        status = self.post(REGISTER, told, **headers).status
        self.net.spend(1)
        return status

    def beat(self, told: dict[str, Any]) -> int:
        return self.post(f"/v1/nodes/{told['node']}/heartbeat", told).status

    def nodes(self) -> list[str]:
        return [node["node"] for node in self.get("/v1/nodes").json["data"]]

    def roles(self) -> list[str]:
        return sorted(role["id"] for role in self.get("/v1/models").json["data"])

    def state(self) -> str:
        return str(self.get("/ready").json["status"])


class RestoredTests(RestartCase):
    """After a restart."""

    def test_traffic_after_one_check_L3(self) -> None:
        """A restored node carries nothing before one good check, and then it does."""
        self.assertEqual(self.register(self.full()), 200)
        self.kill()
        self.server.mood = "silent"
        self.begin()
        self.assertEqual((self.nodes(), self.ready()), (["box2"], (0, 1)))
        self.kill()
        self.server.mood = "accept"
        self.begin()
        self.net.spend(0.25)
        self.assertEqual((self.nodes(), self.ready()), (["box2"], (1, 1)))

    def test_listed_once_seen_L3(self) -> None:
        """A role that only a restored node announces is listed after a check, not before."""
        self.register(self.plain(roles=["writer"]))
        self.kill()
        self.server.mood = "silent"
        self.begin()
        self.assertEqual(self.roles(), ["coder"])
        self.kill()
        self.server.mood = "accept"
        self.begin()
        self.net.spend(1)
        self.assertEqual(self.roles(), ["coder", "writer"])

    def test_dead_meanwhile_L3(self) -> None:
        """A restored node whose server has gone carries nothing."""
        self.register(self.full())
        self.kill()
        self.server.mood = "refuse"
        self.begin()
        self.net.spend(5)
        self.assertEqual(self.ready(), (0, 1))

    def test_state_is_not_believed_L3(self) -> None:
        """A backend that was loading is asked; what it was then does not keep it from serving."""
        self.register(self.full(backend={"state": "loading"}))
        self.kill()
        self.begin()
        self.net.spend(1)
        self.assertEqual(self.ready(), (1, 1))

    def test_lease_P11(self) -> None:
        """A restored agent's node is believed for one lease, and revived by a heartbeat."""
        self.register(self.full())
        self.kill()
        self.begin()
        self.net.spend(LEASE - 1)
        self.assertEqual(self.ready(), (1, 1))
        self.net.spend(2)
        self.assertEqual(self.ready(), (0, 1))
        self.assertEqual(self.beat(self.full(generation=6)), 200)
        self.assertEqual(self.ready(), (1, 1))

    def test_forgotten_P11(self) -> None:
        """A node that was silent for ten minutes is shown no more, but kept; its next heartbeat,
        or the next life of the gateway, brings it back."""
        self.register(self.full())
        self.net.spend(LEASE + FORGET + 1, 1)
        self.assertEqual((self.nodes(), self.ready()), ([], (0, 0)))
        self.assertEqual(list(self.store.kept), ["box2"])
        self.assertEqual(self.beat(self.full(generation=6)), 200)
        self.net.spend(3)
        self.assertEqual((self.nodes(), self.ready()), (["box2"], (1, 1)))
        self.net.spend(LEASE + FORGET + 1, 1)
        self.kill()
        self.begin()
        self.net.spend(1)
        self.assertEqual((self.nodes(), self.ready()), (["box2"], (1, 1)))

    def test_left_is_not_kept_P11(self) -> None:
        """The heartbeat of a node that has left is asked to register, and brings nothing back."""
        self.register(self.full())
        self.assertEqual(self.get("/v1/nodes/box2", "DELETE").status, 200)
        self.assertEqual(self.beat(self.full(generation=6)), 410)
        self.assertEqual(self.nodes(), [])

    def test_plain_lease_P11(self) -> None:
        """A restored node without an agent has its checks for a lease."""
        self.register(self.plain())
        self.kill()
        self.begin()
        self.net.spend(4 * LEASE)
        self.assertEqual(self.ready(), (1, 1))

    def test_restarted_agent_N2(self) -> None:
        """When the whole box was restarted, its new agent is not refused for the old one's sake,
        and from then on any other is."""
        self.register(self.full())
        self.kill()
        self.begin()
        self.assertEqual(self.register(self.full(instance="two", generation=1)), 200)
        self.assertEqual(self.beat(self.full(instance="one", generation=1)), 409)

    def test_left(self) -> None:
        """A node that left does not come back."""
        self.register(self.full())
        self.assertEqual(self.get("/v1/nodes/box2", "DELETE").status, 200)
        self.kill()
        self.begin()
        self.assertEqual(self.nodes(), [])

    def test_change_by_heartbeat(self) -> None:
        """What a heartbeat changed is what comes back."""
        self.register(self.full())
        self.beat(self.full(generation=6, backend={"roles": ["writer"]}))
        self.net.spend(2)
        self.kill()
        self.begin()
        self.net.spend(1)
        self.assertEqual(self.ready("writer"), (1, 1))

    def test_heartbeats_are_not_written(self) -> None:
        """A heartbeat with news of the moment alone changes nothing in the store."""
        self.register(self.full())
        before = dict(self.store.kept)
        exit = {"reason": "out of memory", "retry_in": 4.0}
        busy = {"slots_busy": 1, "restarts": 3, "note": "tight", "last_exit": exit}
        loading = {"state": "loading", "progress": "loading for 3 s", **busy}
        machine = {"gpus": [{"uuid": "GPU-1", "power": 250.0}], "host": {"cpu": 0.5}}
        self.assertEqual(self.beat(self.full(generation=6, backend=loading, **machine)), 200)
        self.net.spend(2)
        self.assertIs(self.store.kept["box2"], before["box2"])

    def test_address_not_allowed_any_more(self) -> None:
        """A kept base URL is judged by today's rules, and the log says who is left out."""
        self.register(self.plain())
        self.kill()
        self.listen = "tcp:8000"
        self.begin()
        self.assertEqual(self.nodes(), [])
        self.assertTrue(any("is not restored" in each["log_format"] for each in self.logged))

    def test_delete_what_is_only_kept(self) -> None:
        """A node that is kept and yet was not restored can be deleted for good."""
        self.register(self.plain())
        self.kill()
        self.listen = "tcp:8000"
        self.begin()
        self.assertEqual(self.get("/v1/nodes/box3", "DELETE").status, 200)
        self.assertEqual(self.store.kept, {})
        self.assertEqual(self.get("/v1/nodes/box3", "DELETE").status, 410)

    def test_listens_when_restored(self) -> None:
        """Nobody is answered before the nodes of before are known again."""
        self.kill()
        self.store.gate = Deferred()
        self.begin()
        self.assertEqual(self.net.tcpServers, [])
        self.store.gate.callback(None)
        self.assertEqual(len(self.net.tcpServers), 1)

    def test_stopped_while_starting(self) -> None:
        """A gateway that is stopped before its store has answered never listens."""
        self.kill()
        self.store.gate = Deferred()
        stopping = self.begin().stopService()
        self.net.spend(1)
        self.store.gate.callback(None)
        self.successResultOf(stopping)
        self.assertEqual(self.net.tcpServers, [])

    def test_written_at_the_end(self) -> None:
        """What a heartbeat changed just before the gateway stopped is kept."""
        self.patch(keeper, "GATHER", 60.0)
        self.register(self.full())
        self.beat(self.full(generation=6, backend={"roles": ["writer"]}))
        stopping = self.life.stopService()
        self.net.spend(5)
        self.successResultOf(stopping)
        self.assertEqual(self.store.kept["box2"].registration.backends[0].roles, ("writer",))


class SharedTests(RestartCase):
    """A store that other gateways write to as well."""

    def setUp(self) -> None:
        super().setUp()
        self.register(self.full())
        self.elsewhere = self.store.kept["box2"]
        self.get("/v1/nodes/box2", "DELETE")
        self.kill()
        self.store.shared = True
        self.begin()

    def test_believed_by_its_checks(self) -> None:
        """A node whose agent tells another gateway is used here as long as it answers checks."""
        self.store.hear({"box2": self.elsewhere})
        self.net.spend(4 * LEASE)
        self.assertEqual(self.ready(), (1, 1))
        self.store.hear({"box2": None})
        self.assertEqual(self.nodes(), [])

    def test_own_agent_knows_better(self) -> None:
        """What an agent tells this gateway itself is not overwritten by what it told another."""
        self.register(self.full(backend={"slots": 9}))
        self.store.hear({"box2": self.elsewhere})
        [node] = self.get("/v1/nodes").json["data"]
        self.assertEqual(node["backends"][0]["slots"], 9)


class TokenTests(RestartCase):
    """With node tokens."""

    def setUp(self) -> None:
        self.file = Path(self.mktemp())
        self.text, self.token = mint(KeyKind.NODE, bytes(ENTROPY), 0.0)
        super().setUp()

    def begin(self) -> GatewayLife:
        self.token = evolve(self.token, node="box2", roles=("coder",))
        write_private(self.file, key_file_text([self.token]))
        self.rules = NodeRules(tokens=self.file)
        return super().begin()

    def register_with_token(self) -> None:
        told = self.full(backend={"roles": ["coder", "writer"]})
        self.assertEqual(self.register(told, Authorization=f"Bearer {self.text}"), 200)

    def test_roles_N8(self) -> None:
        """A restored node serves the roles that its token allows, and no others."""
        self.register_with_token()
        self.kill()
        self.begin()
        self.net.spend(1)
        self.assertEqual((self.ready(), self.ready("writer")), ((1, 1), (0, 0)))

    def test_revoked_N8(self) -> None:
        """A node whose token was revoked meanwhile does not come back."""
        self.register_with_token()
        self.kill()
        self.token = revoke(self.token)
        self.begin()
        self.assertEqual(self.ready(), (0, 0))


class TroubleTests(RestartCase):
    """A disk that is full while the gateway runs."""

    def setUp(self) -> None:
        super().setUp()
        self.register(self.full())
        self.store.failing = "database or disk is full"

    def test_serving_goes_on_L4(self) -> None:
        """A new node is refused, known ones serve and report, and /ready says degraded."""
        answer = self.post(REGISTER, self.plain(roles=["writer"]))
        self.assert_refused(answer, 503, "state_unavailable")
        for generation in range(6, 16):
            told = self.full(generation=generation, backend={"slots": generation})
            self.assertEqual(self.beat(told), 200)
            self.net.spend(5)
        self.assertEqual(self.ready(), (1, 1))
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json["status"]), (200, "degraded"))
        self.assertNotIn(b"full", answer.data)

    def test_recovers_L4(self) -> None:
        """Once there is room again a registration is acknowledged, with no restart."""
        self.register(self.plain())
        self.store.failing = ""
        self.net.spend(2 * RETRY)
        self.assertEqual(self.state(), "ready")
        self.assertEqual(self.register(self.plain()), 200)
        self.assertEqual(sorted(self.store.kept), ["box2", "box3"])

    def test_leaving(self) -> None:
        """A node that leaves is out at once; that it would come back is told, and then mended."""
        self.assertEqual(self.get("/v1/nodes/box2", "DELETE").status, 503)
        self.assertEqual(self.nodes(), [])
        self.store.failing = ""
        self.net.spend(2 * RETRY)
        self.assertEqual(self.store.kept, {})
