"""A real gateway that moves while it runs: to another host, and into a database."""

import subprocess
import sys

from twisted.trial.unittest import SynchronousTestCase

from tests.bench.survival import well
from tests.doubles.postgres import Postgres
from tests.gateway.store.test_postgres import need_postgres
from tests.real.harness import Server, Workshop, ask, eventually, free_port

OWN = """
roles: {planner: tiny}
gateway: {drain: 1s, keys: {file: keys.yaml}, nodes: {tokens: {file: nodes.yaml}}}
"""
SHARED = """
roles: {{planner: tiny}}
gateway: {{drain: 1s, store: '{url}', keys: store, nodes: {{tokens: store}}}}
"""


NOTHING = {"planner": {"ready": 0}}  # is told while the keys are not known yet


class MovingTests(SynchronousTestCase):
    """A node that registered at one gateway, and the keys of both."""

    def setUp(self) -> None:
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)
        self.folder = self.workshop.folder
        self.backend = self.enterContext(well())
        self.key = self.rolemesh("keys", "add", "--file", str(self.folder / "keys.yaml"))
        tokens = str(self.folder / "nodes.yaml")
        self.token = self.rolemesh("keys", "add", "--file", tokens, "--node", "box2")
        self.port = free_port()
        self.gateway = self.workshop.gateway(OWN, self.port)
        self.assertEqual(self.registered(self.gateway), 200)

    def rolemesh(self, *words: str) -> str:
        """What a command prints."""
        command = [sys.executable, "-m", "rolemesh.cli.main", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def registered(self, gateway: Server) -> int:
        """The status of the node's registration."""
        backend = {"id": "gpu0", "base_url": self.backend, "model": "tiny"}
        told = {"node": "box2", "instance": "one", "backends": [backend]}
        url = f"{gateway.url}/v1/nodes/register"
        return ask(url, told, authorization=f"Bearer {self.token}").status

    def assert_moved(self, gateway: Server) -> None:
        """It knows the key and the node, which carries traffic, and takes the node's token."""
        eventually("the node is checked", lambda: self.ready(gateway) == 1)
        answer = ask(f"{gateway.url}/v1/nodes", authorization=f"Bearer {self.key}")
        self.assertEqual([node["node"] for node in answer.json()["data"]], ["box2"])
        eventually("the token is known", lambda: self.registered(gateway) == 200)

    def ready(self, gateway: Server) -> int:
        told = ask(f"{gateway.url}/ready", authorization=f"Bearer {self.key}").json()
        found: int = told.get("roles", NOTHING)["planner"]["ready"]
        return found

    def test_to_another_host_P10(self) -> None:
        """What `backup` packs while it runs, and `restore` unpacks, is the same gateway."""
        packed = str(self.folder / "gw.tar.gz")
        config = str(self.folder / f"models-{self.port}.yaml")
        state = str(self.folder / f"gateway-{self.port}")
        self.rolemesh("backup", packed, "--config", config, "--state", state)
        port = free_port()
        there = self.folder / "there"
        state = str(self.folder / f"gateway-{port}")
        restored = ("--config", str(there / "models.yaml"), "--state", state)
        self.rolemesh("restore", packed, *restored)
        (self.folder / "keys.yaml").unlink()
        (there / "keys.yaml").rename(self.folder / "keys.yaml")
        self.assert_moved(self.workshop.gateway((there / "models.yaml").read_text(), port))

    def test_into_a_database_P10(self) -> None:
        """What `store copy` takes into a database is the same mesh for a gateway there."""
        need_postgres()
        database = Postgres()
        self.addCleanup(database.remove)
        database.start()
        shared = self.workshop.gateway(SHARED.format(url=database.url))
        sources = [f"gateway-{self.port}", "keys.yaml", "nodes.yaml"]
        named = [word for each in sources for word in ("--from", str(self.folder / each))]
        self.rolemesh("store", "copy", *named, "--to", database.url)
        self.assert_moved(shared)
