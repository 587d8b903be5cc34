"""The examples of `configs/` and of `docs/CONFIG.md`, which are all to be believed."""

import re
from pathlib import Path

from rolemesh.config import gateway, node, roles, runs
from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener
from rolemesh.config.node import NodeSettings
from tests.config.written import WrittenTests

ROOT = Path(__file__).parents[2]
MODELS = ("Qwen3-Coder-30B-A3B-Q4_K_M", "gpt-oss-20b-mxfp4", "qwen3-coder-30b", "gpt-oss-20b")
ENVIRON = {"BIG_ONE_KEY": "sk-1"}


class ExampleTests(WrittenTests):
    """Files to copy and blocks to paste."""

    def setUp(self) -> None:
        super().setUp()
        for model in MODELS:
            self.write(f"models/{model}.gguf")
        for name in ("keys.yaml", "nodes.yaml", "node.token", "gw.pem", "gw.key", "ca.pem"):
            self.write(name, "x", mode=0o600)

    def test_gateway_example(self) -> None:
        """`models.example.yaml` can be used as it is, on a machine with nothing set up."""
        settings = self.gateway((ROOT / "configs/models.example.yaml").read_bytes())
        self.assertEqual(list(settings.roles), ["planner", "coder", "reviewer"])
        self.assertEqual(settings.warnings, ())

    def test_gateway_example_with_keys(self) -> None:
        """What is commented out at its end works too."""
        text = (ROOT / "configs/models.example.yaml").read_text()
        opened = re.sub(r"^  listen: .*\n", "", text, flags=re.M)
        opened = re.sub(r"^  # (listen:|keys:|nodes:|  \w+:)", r"  \1", opened, flags=re.M)
        settings = self.gateway(opened)
        self.assertEqual(settings.listen, (Listener("tcp:8000"),))
        self.assertEqual(settings.keys, self.folder / "keys.yaml")
        self.assertEqual(settings.nodes.tokens, self.folder / "nodes.yaml")

    def test_node_example(self) -> None:
        """`node_agent.example.yaml` can be used as it is where its models are."""
        content = (ROOT / "configs/node_agent.example.yaml").read_bytes()
        settings = self.node(content, {"ROLEMESH_MODELS": str(self.folder / "models")})
        self.assertEqual([run.id for run in settings.run], ["gpu0", "gpu1"])
        self.assertEqual(settings.warnings, ())

    def test_examples_agree(self) -> None:
        """The node of the one example serves what a role of the other asks for."""
        gateway = self.gateway((ROOT / "configs/models.example.yaml").read_bytes())
        content = (ROOT / "configs/node_agent.example.yaml").read_bytes()
        node = self.node(content, {"ROLEMESH_MODELS": str(self.folder / "models")})
        served = {run.model for run in node.run}
        self.assertTrue(gateway.roles["coder"].models() <= served)

    def test_documentation(self) -> None:
        """Every YAML block of docs/CONFIG.md is a whole file that loads without a warning."""
        blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/CONFIG.md").read_text(), re.S)
        self.assertGreaterEqual(len(blocks), 5)
        for block in blocks:
            self.assertEqual(self.load(block).warnings, (), block)

    def test_documentation_names_every_key(self) -> None:
        """Every key that a file may have stands in docs/CONFIG.md."""
        text = (ROOT / "docs/CONFIG.md").read_text()
        tables = (gateway.GATEWAY_KEYS, node.KEYS, roles.ROLE_KEYS, roles.TARGET_KEYS)
        for key in (key for table in (*tables, runs.RUN_KEYS) for key in table):
            self.assertRegex(text, rf"\| `{key}[`.]", key)

    def load(self, block: str) -> GatewaySettings | NodeSettings:
        is_node = re.search(r"^run:", block, re.M)
        return self.node(block, ENVIRON) if is_node else self.gateway(block, ENVIRON)
