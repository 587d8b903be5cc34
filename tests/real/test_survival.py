"""Real gateways that are killed, or find their state in a bad way: rows L2, L4, L6, L7, P10."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.bench import survival
from tests.real.harness import TWISTD, Server, Workshop, answers, ask, free_port, need

CONFIG = "gateway: {drain: 1s}"


class KilledGateway(SynchronousTestCase):
    """SIGKILL while nodes register; `python -m tests.bench survival` does it fifty times."""

    def test_nothing_acknowledged_is_lost_P10_L2(self) -> None:
        """Whatever a killed gateway acknowledged the next one knows, and a role is ready again."""
        found = survival.measure(kills=3)
        self.assertEqual(found.lost, [])
        self.assertEqual(len(found.ready), 3)
        self.assertGreater(found.acknowledged, 0)


class StateCase(SynchronousTestCase):
    """Has a gateway whose state folder is looked into."""

    def setUp(self) -> None:
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)
        self.port = free_port()
        self.state = self.workshop.folder / f"gateway-{self.port}"
        self.file = self.state / "state.db"

    def gateway(self) -> Server:
        return self.workshop.gateway(CONFIG, self.port)

    def stop(self, gateway: Server) -> None:
        self.assertEqual(gateway.program.stop(), 0)

    def register(self, gateway: Server, node: str = "box2", **more: Any) -> int:
        told = {"node": node, "base_url": "http://127.0.0.1:18100", "roles": ["coder"], **more}
        return ask(f"{gateway.url}/v1/nodes/register", told).status

    def nodes(self, gateway: Server) -> list[str]:
        return [node["node"] for node in ask(f"{gateway.url}/v1/nodes").json()["data"]]

    def messages(self, gateway: Server) -> str:
        return "\n".join(event["message"] for event in gateway.program.events())


class BrokenState(StateCase):
    """What a gateway finds at its start."""

    def test_corrupt_L6(self) -> None:
        """A broken file is set aside and said in the log; the gateway serves and keeps anew."""
        gateway = self.gateway()
        self.register(gateway)
        self.stop(gateway)
        content = self.file.read_bytes()
        self.file.write_bytes(os.urandom(len(content)))
        gateway = self.gateway()
        self.assertEqual(self.nodes(gateway), [])
        [aside] = self.state.glob("state.db.corrupt-*")
        gateway.program.until("it is said", lambda: aside.name in self.messages(gateway))
        self.assertEqual(self.register(gateway), 200)

    def test_newer_schema_L7(self) -> None:
        """A file of a later RoleMesh: exit 78 and one line that names both versions."""
        self.stop(self.gateway())
        with closing(sqlite3.connect(self.file, isolation_level=None)) as database:
            database.execute("INSERT INTO schema_version VALUES (999)")
        path = self.workshop.file("models.yaml", CONFIG)
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path), "--state", str(self.state)]
        ended = self.workshop.start("gateway", argv)
        self.assertEqual(ended.wait(), 78)
        [line] = ended.text().splitlines()
        self.assertIn("version 999", line)


class FullDisk(StateCase):
    """A file system of its own, so small that it is soon full."""

    def setUp(self) -> None:
        super().setUp()
        self.state.mkdir(mode=0o700)
        small = f"mount -t tmpfs -o size=256k none {self.state}"
        self.inside = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
        need(shutil.which("unshare") is not None, "unshare")
        probe = subprocess.run([*self.inside, small], capture_output=True, check=False)
        need(probe.returncode == 0, "a file system of one's own")
        path = self.workshop.file("models.yaml", CONFIG)
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        argv = [*TWISTD, "rolemesh-gateway", "--config", str(path), "--listen", listen]
        shell = f'{small} && exec "$0" "$@"'
        program = self.workshop.start(
            "gateway", [*self.inside, shell, *argv, "--state", str(self.state)]
        )
        self.server = Server(program, f"http://127.0.0.1:{self.port}")
        program.until("the gateway answers", lambda: answers(f"{self.server.url}/health"))

    def test_full_L4(self) -> None:
        """Registrations are refused as long as the disk is full, and no longer."""
        self.assertEqual(self.register(self.server), 200)
        ballast = Path(f"/proc/{self.server.program.pid}/root{self.state}/ballast")
        with self.assertRaises(OSError), ballast.open("wb") as file:
            while True:
                file.write(b"x" * 4096)
                file.flush()
        statuses = {self.register(self.server, f"n{number}") for number in range(40)}
        self.assertIn(503, statuses)
        self.assertEqual(self.register(self.server), 200)
        ballast.unlink()
        self.server.program.until("a registration is kept", lambda: self.keeps("box3"))

    def keeps(self, node: str) -> bool:
        return self.register(self.server, node) == 200
