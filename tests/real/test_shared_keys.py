"""Real gateways whose keys and tokens are in a real PostgreSQL, which goes away in the middle."""

import subprocess
import sys
from typing import Any

from tests.bench.survival import well
from tests.real.harness import Answer, Server, ask, eventually
from tests.real.shared import SharedDatabaseCase

CONFIG = """
roles: {{planner: '{backend}'}}
gateway:
  drain: 1s
  store: '{url}'
  keys: store
  nodes: {{tokens: store}}
"""


class SharedKeys(SharedDatabaseCase):
    """Two gateways on one database."""

    def setUp(self) -> None:
        super().setUp()
        self.backend = self.enterContext(well())

    def gateway(self) -> Server:
        return self.workshop.gateway(CONFIG.format(url=self.database.url, backend=self.backend))

    def keys(self, *words: str) -> str:
        """What `rolemesh keys` prints."""
        command = [sys.executable, "-m", "rolemesh.cli.main", "keys", *words]
        ended = subprocess.run(
            [*command, "--store", self.database.url], capture_output=True, text=True, check=True
        )
        return ended.stdout.strip()

    def status(self, gateway: Server, key: str) -> int:
        return self.models(gateway, key).status

    def models(self, gateway: Server, key: str) -> Answer:
        return ask(f"{gateway.url}/v1/models", authorization=f"Bearer {key}")

    def soon(self, status: int, key: str, *gateways: Server) -> None:
        """Wait until every gateway answers so."""
        eventually(
            f"all say {status}", lambda: {self.status(each, key) for each in gateways} == {status}
        )

    def register(self, gateway: Server, token: str) -> int:
        backend: dict[str, Any] = {"id": "gpu0", "base_url": self.backend, "model": "tiny"}
        told = {"node": "box2", "instance": "one", "backends": [backend]}
        url = f"{gateway.url}/v1/nodes/register"
        return ask(url, told, authorization=f"Bearer {token}").status

    def test_spread(self) -> None:
        """A key and a token that a command makes open every gateway, and one that
        it revokes opens none."""
        one, two = self.gateway(), self.gateway()
        self.soon(401, "rmk_none", one, two)
        key, token = self.keys("add", "--name", "me"), self.keys("add", "--node", "box2")
        self.soon(200, key, one, two)
        eventually("the token is known", lambda: self.register(two, token) == 200)
        self.keys("revoke", "--name", "me")
        self.soon(401, key, one, two)
        self.keys("revoke", "--node", "box2")
        eventually("the token ends", lambda: self.register(one, token) == 401)

    def test_database_away(self) -> None:
        """With the database away the keys of before open a gateway that runs, and nothing opens one
        that starts: 503, until the database is back."""
        key = self.keys("add", "--name", "me")
        one = self.gateway()
        self.soon(200, key, one)
        self.database.stop()
        self.assertEqual(self.status(one, key), 200)
        late = self.gateway()
        for presented in (key, "rmk_none"):
            refused = self.models(late, presented)
            self.assertEqual(refused.status, 503)
            self.assertEqual(refused.json()["error"]["code"], "state_unavailable")
        self.assertEqual(self.status(one, key), 200)
        self.database.start()
        eventually("it knows its keys", lambda: self.status(late, key) == 200)
        self.assertEqual(self.status(late, "rmk_none"), 401)
