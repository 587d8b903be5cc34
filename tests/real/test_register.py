"""A server joins with the line of curl that a person types, and leaves when it goes."""

import json
import shutil
import subprocess
from typing import Any, ClassVar

from tests.real.harness import Answer, RealTestCase, Server, ask, eventually, need

QUESTION = {"model": "writer", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
GONE = (404, 503)


class ByHand(RealTestCase):
    """The plain form of a registration."""

    gateway: ClassVar[Server]

    @classmethod
    def furnish(cls) -> None:
        cls.gateway = cls.workshop.gateway("gateway: {drain: 1s}")

    def write(self, model: str = "writer") -> Answer:
        return ask(f"{self.gateway.url}/v1/chat/completions", {**QUESTION, "model": model})

    def register(self, server: Server, node: str, role: str) -> dict[str, Any]:
        need(shutil.which("curl") is not None, "curl")
        body = json.dumps({"node": node, "base_url": server.url, "roles": [role]})
        argv = ["curl", "-s", "-d", body, f"{self.gateway.url}/v1/nodes/register"]
        done = subprocess.run(argv, capture_output=True, check=True, timeout=30)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def test_curl_makes_a_role_answer(self) -> None:
        """`writer` is unknown, is registered by curl, answers, and is known in the list."""
        self.assertEqual(self.write().json()["error"]["code"], "model_not_found")
        server = self.workshop.llama_server(self.workshop.model())
        self.assertEqual(self.register(server, "box2", "writer")["node"], "box2")
        eventually("writer answers", lambda: self.write().status == 200)
        self.assertEqual(self.write().headers["x-rolemesh-node"], "box2")
        models = ask(f"{self.gateway.url}/v1/models").json()["data"]
        self.assertIn("writer", [model["id"] for model in models])

    def test_server_that_goes_away(self) -> None:
        """Its health check is its lease: once it is gone, the role is refused with 404 or 503."""
        server = self.workshop.llama_server(self.workshop.model())
        self.register(server, "box3", "drafter")
        eventually("drafter answers", lambda: self.write("drafter").status == 200)
        server.program.stop()
        eventually("it is refused", lambda: self.write("drafter").status in GONE, 60)
        code = self.write("drafter").json()["error"]["code"]
        self.assertIn(code, ("role_unavailable", "model_not_found"))

    def test_delete(self) -> None:
        """DELETE takes a node out at once."""
        server = self.workshop.llama_server(self.workshop.model())
        self.register(server, "box4", "poet")
        eventually("poet answers", lambda: self.write("poet").status == 200)
        answer = ask(f"{self.gateway.url}/v1/nodes/box4", method="DELETE")
        self.assertEqual(answer.status, 200)
        self.assertIn(self.write("poet").status, GONE)

    def test_address_elsewhere(self) -> None:
        """What is no server's address is refused with a reason, not believed."""
        answer = ask(
            f"{self.gateway.url}/v1/nodes/register",
            {"node": "box5", "base_url": "file:///etc/passwd", "roles": ["spy"]},
        )
        self.assertIn(answer.status, (400, 403))
