"""The official Node SDK gets from the gateway what it gets from llama.cpp itself."""

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from tests.real.harness import RealTestCase, Server, need

SDK = "openai@6"  # the last that runs on Node 20
SCRIPT = Path(__file__).with_name("openai_node.mjs")


def sdk() -> Path:
    """A folder with the SDK in it, installed once and kept."""
    need(bool(shutil.which("node") and shutil.which("npm")), "node with npm")
    folder = Path(tempfile.gettempdir()) / "rolemesh-test-npm" / SDK
    if not (folder / "node_modules/openai").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text("{}")
        argv = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", SDK]
        done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=600)
        need(done.returncode == 0, f"npm's {SDK} ({done.stderr.strip()[-200:]})")
    return folder


class NodeSdk(RealTestCase):
    """One run of the SDK against the gateway, and one against the server."""

    server: ClassVar[Server]
    mine: ClassVar[dict[str, Any]]
    own: ClassVar[dict[str, Any]]

    @classmethod
    def furnish(cls) -> None:
        folder = sdk()
        cls.server = cls.workshop.llama_server(cls.workshop.model(), "--jinja")
        gateway = cls.workshop.gateway(f"roles: {{planner: {cls.server.url}}}")
        cls.mine = cls.asked(folder, gateway)
        cls.own = cls.asked(folder, cls.server)

    @classmethod
    def asked(cls, folder: Path, server: Server) -> dict[str, Any]:
        argv = ["node", str(SCRIPT), str(folder), f"{server.url}/v1", "planner"]
        program = cls.workshop.start("node-sdk", argv)
        assert program.wait() == 0, program.text()
        found: dict[str, Any] = json.loads(program.text().splitlines()[-1])
        return found

    def test_chat(self) -> None:
        """The same text and the same counts as from the server."""
        self.assertEqual(self.mine["text"], self.own["text"])
        counts = ("prompt_tokens", "completion_tokens")
        for each in counts:
            self.assertEqual(self.mine["usage"][each], self.own["usage"][each])

    def test_stream(self) -> None:
        """The same text in as many pieces; usage for who asked for it, and for nobody else."""
        self.assertEqual(self.mine["stream"], self.own["stream"])
        self.assertIsNone(self.mine["stream"]["usage"])
        self.assertEqual(self.mine["streamWithUsage"]["usage"]["completion_tokens"], 12)

    def test_tools(self) -> None:
        """The same tool call."""
        self.assertEqual(self.mine["call"], self.own["call"])
        self.assertEqual(self.mine["call"]["name"], "paint")

    def test_models(self) -> None:
        """The role is listed and, as the server cannot, retrieved."""
        self.assertEqual(self.mine["models"], ["planner"])
        self.assertEqual(self.mine["retrieved"], "planner")

    def test_errors(self) -> None:
        """Each error is of the SDK's own class, with a code."""
        self.assertEqual(self.mine["unknown"]["name"], "NotFoundError")
        self.assertEqual(self.mine["unknown"]["code"], "model_not_found")
        self.assertEqual(self.mine["tooLong"]["name"], "BadRequestError")
        self.assertEqual(self.mine["tooLong"]["code"], "context_length_exceeded")
        self.assertEqual(self.mine["embeddings"]["status"], 501)

    def test_stream_may_be_left(self) -> None:
        """Breaking out of a stream is no error, and what came after it was answered."""
        self.assertTrue(self.mine["abandoned"])
