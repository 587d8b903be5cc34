"""Two real gateways on one real PostgreSQL, which goes away in the middle."""

from typing import Any

from tests.bench.survival import well
from tests.real.harness import Server, answers, ask, eventually
from tests.real.shared import SharedDatabaseCase

CONFIG = "roles: {{planner: tiny}}\ngateway: {{drain: 1s, store: '{url}'}}"


class SharedStore(SharedDatabaseCase):
    """Gateways that were told of nothing but the database."""

    def setUp(self) -> None:
        super().setUp()
        self.backend = self.enterContext(well())

    def gateway(self) -> Server:
        return self.workshop.gateway(CONFIG.format(url=self.database.url))

    def register(self, gateway: Server, node: str) -> int:
        backend = {"id": "gpu0", "base_url": self.backend, "model": "tiny", "state": "ready"}
        told = {"node": node, "instance": "one", "backends": [backend]}
        return ask(f"{gateway.url}/v1/nodes/register", told).status

    def nodes(self, gateway: Server) -> list[str]:
        return sorted(node["node"] for node in ask(f"{gateway.url}/v1/nodes").json()["data"])

    def ready(self, gateway: Server) -> Any:
        return ask(f"{gateway.url}/ready").json()

    def test_spread(self) -> None:
        """A node that registers or leaves at one gateway does so at the other, and is used there;
        a gateway that starts later knows it as well."""
        one, two = self.gateway(), self.gateway()
        self.assertEqual(self.register(one, "box2"), 200)
        eventually("the other one is ready", lambda: answers(f"{two.url}/ready"))
        three = self.gateway()
        eventually("the third knows it", lambda: self.nodes(three) == ["box2"])
        self.assertEqual(ask(f"{two.url}/v1/nodes/box2", method="DELETE").status, 200)
        eventually("the first has heard", lambda: self.nodes(one) == [])

    def test_database_away(self) -> None:
        """With the database away the gateways serve on; with it back they keep, and catch up."""
        one, two = self.gateway(), self.gateway()
        self.register(one, "box2")
        eventually("the other one is ready", lambda: answers(f"{two.url}/ready"))
        self.database.stop()
        eventually("that is said", lambda: self.ready(two)["status"] == "degraded")
        self.assertEqual(self.register(two, "box3"), 503)
        self.assertEqual(self.register(one, "box2"), 200)
        self.assertEqual((self.ready(one)["roles"]["planner"]["ready"]), 1)
        self.database.start()
        eventually("it is kept", lambda: self.register(two, "box3") == 200)
        eventually("the first has heard", lambda: self.nodes(one) == ["box2", "box3"])
        eventually("all is well", lambda: self.ready(one)["status"] == "ready")
