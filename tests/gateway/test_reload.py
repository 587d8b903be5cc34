"""The promises of `rolemesh.gateway.reload`: rows L9 and L11."""

from pathlib import Path

from rolemesh.config.gateway import load_gateway
from tests.gateway.memory import GatewayCase, Server, whole


class ReloadTests(GatewayCase):
    """A file that changes under a running gateway."""

    def setUp(self) -> None:
        super().setUp()
        self.a, self.b = self.net.server(), self.net.server()
        self.path = Path(self.mktemp())
        self.write(f"roles: {{coder: {self.a.url}, planner: {self.b.url}}}")
        settings = load_gateway(self.path, {})
        self.start(*settings.roles.values(), path=self.path)

    def write(self, text: str) -> None:
        self.path.write_text(text)
        self.path.chmod(0o644)

    def again(self, text: str) -> None:
        """Write the file anew and have it read."""
        self.write(text)
        self.reload()
        self.net.spend(1)

    def models(self) -> list[str]:
        return [model["id"] for model in self.get("/v1/models").json["data"]]

    def served_by(self, server: Server, model: str) -> int:
        client = self.ask(model=model)
        server.work[-1].json(200, whole("hi"))
        self.turn()
        return client.answer.status

    def test_L11_new_role(self) -> None:
        """A role that is new answers, and one that is gone does not."""
        self.again(f"roles: {{coder: {self.a.url}, writer: {self.b.url}}}")
        self.assertEqual(self.models(), ["coder", "writer"])
        self.assertEqual(self.served_by(self.b, "writer"), 200)
        self.assert_refused(self.ask(model="planner").answer, 404, "model_not_found")

    def test_L9_bad_file(self) -> None:
        """A file with any fault changes nothing, and each fault is told with its place."""
        bad = (
            "roles: [",
            "roles: {coder: {use: http://127.0.0.1:1, polixy: first}}\nnothing: 1",
            "roles: {coder: a, coder: b}",
            "roles: {coder: }",
        )
        for text in bad:
            self.logged.clear()
            self.again(text)
            problems = [each["problem"] for each in self.logged if "problem" in each]
            self.assertTrue(problems, text)
            self.assertTrue(all(f"{self.path}:" in problem for problem in problems), problems)
            self.assertEqual(self.models(), ["coder", "planner"])
            self.assertEqual(self.served_by(self.a, "coder"), 200)

    def test_L9_all_faults(self) -> None:
        """All of them are told, not the first one alone."""
        self.again("roles: {coder: {use: x, polixy: first}, planner: {use: y, fallback: [z]}}")
        self.assertEqual(len([each for each in self.logged if "problem" in each]), 2)

    def test_L9_no_file(self) -> None:
        """Neither does a file that is gone, nor what is no file."""
        self.path.unlink()
        self.reload()
        self.path.mkdir()
        self.reload()
        self.assertEqual(self.models(), ["coder", "planner"])

    def test_L11_streams_finish(self) -> None:
        """An answer of a role that a reload removes is finished."""
        client = self.stream(model="planner")
        exchange = self.b.work[0]
        exchange.head()
        exchange.text("one")
        self.turn()
        self.again(f"roles: {{coder: {self.a.url}}}")
        exchange.text("two", finish="stop")
        exchange.done()
        self.turn()
        self.assertEqual(client.answer.text, "onetwo")
        self.assertTrue(client.answer.finished)

    def test_L11_kept_servers(self) -> None:
        """A server that stays is not checked anew: no request waits for it."""
        self.write(f"roles: {{coder: {self.a.url}, writer: {self.b.url}}}")
        self.reload()
        client = self.ask()
        self.assertEqual(len(self.a.work), 1)
        self.assertFalse(client.answered)

    def test_L11_removed_servers_are_asked_no_more(self) -> None:
        """A server that no role names is not even checked."""
        self.again(f"roles: {{coder: {self.a.url}}}")
        asked = len(self.b.checks)
        self.net.spend(5)
        self.assertEqual(len(self.b.checks), asked)

    def test_drain(self) -> None:
        """The drain is the new file's."""
        self.again(f"roles: {{coder: {self.a.url}}}\ngateway: {{drain: 7s}}")
        self.assertEqual(self.life.drain, 7.0)

    def test_nodes_stay(self) -> None:
        """A registered node serves on, also in a role that is new."""
        node = {
            "node": "box2",
            "instance": "one",
            "backends": [{"id": "gpu0", "base_url": self.b.url, "model": "qwen"}],
        }
        self.assertEqual(self.post("/v1/nodes/register", node).status, 200)
        self.again("roles: {writer: qwen}")
        self.assertEqual(self.ready("writer"), (1, 1))
        self.assertEqual(self.served_by(self.b, "writer"), 200)

    def test_nodes_are_judged_anew(self) -> None:
        """What a node reports is judged by the roles of the new file."""
        backend = {"id": "gpu0", "base_url": self.b.url, "model": "qwen", "context": 4096}
        node = {"node": "box2", "instance": "one", "backends": [backend]}
        self.again("roles: {writer: {use: qwen, require: {context: 64k}}}")
        (refused,) = self.post("/v1/nodes/register", node).json["refused"]
        self.assertIn("not in 'writer'", refused["message"])

    def test_waiting_requests(self) -> None:
        """A request that waits for a slot is served when the file allows more of them."""
        self.again(f"roles: {{coder: {{use: [{{url: {self.a.url}, slots: 1}}]}}}}")
        self.ask()
        self.ask()
        self.assertEqual(len(self.a.work), 1)
        self.again(f"roles: {{coder: {self.a.url}}}")
        self.assertEqual(len(self.a.work), 2)
