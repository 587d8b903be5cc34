"""Configurations written into a folder of the test, and what is said of them."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.node import NodeSettings, load_node
from rolemesh.config.problems import ConfigError


class WrittenTests(SynchronousTestCase):
    """Tests that each have a folder to write files into."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir(parents=True)

    def write(self, name: str, content: str | bytes = "", mode: int = 0o644) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(dedent(content).encode() if isinstance(content, str) else content)
        path.chmod(mode)
        return path

    def gateway(
        self, content: str | bytes, environ: Mapping[str, str] | None = None
    ) -> GatewaySettings:
        return load_gateway(self.write("models.yaml", content), environ or {})

    def node(self, content: str | bytes, environ: Mapping[str, str] | None = None) -> NodeSettings:
        return load_node(self.write("node_agent.yaml", content), environ or {})

    def gateway_problems(
        self, content: str | bytes, environ: Mapping[str, str] | None = None
    ) -> list[str]:
        """Each problem as `line:col: text`."""
        error = self.assertRaises(ConfigError, self.gateway, content, environ)
        return self._told(error, "models.yaml")

    def node_problems(
        self, content: str | bytes, environ: Mapping[str, str] | None = None
    ) -> list[str]:
        """Each problem as `line:col: text`."""
        error = self.assertRaises(ConfigError, self.node, content, environ)
        return self._told(error, "node_agent.yaml")

    def _told(self, error: ConfigError, name: str) -> list[str]:
        return [line.removeprefix(f"{self.folder / name}:") for line in str(error).splitlines()]
