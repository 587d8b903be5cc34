"""Invites at two gateways whose node tokens are in one PostgreSQL."""

import sys
from concurrent.futures import ThreadPoolExecutor
from subprocess import run

from rolemesh.core.invites import read_code, token_hash
from rolemesh.core.keys import ENTROPY, KeyKind, mint
from tests.real.harness import Answer, Server, ask, eventually
from tests.real.shared import SharedDatabaseCase

CONFIG = "gateway: {{drain: 1s, store: '{url}', nodes: {{tokens: store}}}}\n"


class SharedJoinTests(SharedDatabaseCase):
    def gateway(self) -> Server:
        return self.workshop.gateway(CONFIG.format(url=self.database.url))

    def invite(self, gateway: Server) -> str:
        """The key in a new invite of box2."""
        command = [sys.executable, "-m", "rolemesh.cli.main", "invite", "box2"]
        where = ["--store", self.database.url, "--url", gateway.url]
        made = run([*command, *where], capture_output=True, text=True, check=True)
        return read_code(made.stdout.split()[-1]).key

    def token(self, number: int) -> str:
        return mint(KeyKind.NODE, bytes([number]) * ENTROPY, 0)[0]

    def join(self, gateway: Server, key: str, number: int) -> Answer:
        told = token_hash(self.token(number))
        assert told is not None
        token = {"id": told.id, "sha256": told.sha256}
        return ask(f"{gateway.url}/v1/nodes/join", {"invite": key, "token": token})

    def outcome(self, gateway: Server, key: str, number: int) -> int:
        """What a box comes to that asks again when told to: 503 is a wait of more than 2 s."""
        return eventually("an answer", lambda: self._status(gateway, key, number))

    def _status(self, gateway: Server, key: str, number: int) -> int:
        status = self.join(gateway, key, number).status
        return 0 if status == 503 else status

    def knows(self, gateway: Server, number: int) -> bool:
        authorization = f"Bearer {self.token(number)}"
        return ask(f"{gateway.url}/v1/nodes/box2", authorization=authorization).status == 410

    def test_racing_boxes(self) -> None:
        """Of eight boxes at two gateways one is in, and both gateways know its token."""
        gateways = [self.gateway(), self.gateway()]
        key = self.invite(gateways[0])
        with ThreadPoolExecutor(8) as boxes:
            found = boxes.map(lambda n: self.outcome(gateways[n % 2], key, n), range(8))
            statuses = list(found)
        self.assertEqual((statuses.count(200), statuses.count(401)), (1, 7))
        winner = statuses.index(200)
        eventually(
            "its token is known", lambda: all(self.knows(gateway, winner) for gateway in gateways)
        )

    def test_a_database_that_is_away(self) -> None:
        """It is 503, and the invite is good again once the database is back."""
        gateway = self.gateway()
        key = self.invite(gateway)
        self.database.stop()
        refused = self.join(gateway, key, 1)
        self.assertEqual(refused.status, 503)
        self.assertEqual(refused.json()["error"]["code"], "state_unavailable")
        self.database.start()
        eventually("it is good again", lambda: self.join(gateway, key, 1).status == 200)
