"""What the demo runs: two models, three roles, and the two files that say so."""

import sys
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

MODELS = {"thinker": ("planner", "reviewer"), "builder": ("coder",)}
ROLES = tuple(role for roles in MODELS.values() for role in roles)

_OUR_LAUNCHER = [sys.executable, "-P", "-m", "rolemesh.demo.llama_server"]
_TOY_ANSWER = 64  # tokens; the toy model never stops by itself


@frozen
class Household:
    """One demo. `model` None means two generated toy models, kept in `cache`; `llama_server` None
    means the server inside the wheel xllamacpp."""

    port: int
    cache: Path
    model: Path | None = None
    llama_server: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def listen(self) -> str:
        return f"tcp:{self.port}:interface=127.0.0.1"

    def furnish(self, folder: Path) -> tuple[Path, Path]:
        """Write what is missing; the gateway's and the node's configuration, in `folder`."""
        gateway, node = folder / "models.yaml", folder / "node_agent.yaml"
        _write(gateway, self._gateway())
        _write(node, self._node())
        return gateway, node

    def _gateway(self) -> dict[str, Any]:
        roles = {role: model for model, roles in MODELS.items() for role in roles}
        return {"roles": roles, "gateway": {"drain": "5s"}}

    def _node(self) -> dict[str, Any]:
        server = [self.llama_server] if self.llama_server else _OUR_LAUNCHER
        runs = [self._run(model, seed) for seed, model in enumerate(MODELS, 1)]
        return {"gateway": self.url, "name": "demo", "llama_server": server, "run": runs}

    def _run(self, model: str, seed: int) -> dict[str, Any]:
        file = self.model or _toy(self.cache, seed)
        run = {"id": model, "model": model, "file": str(file), "slots": 2, "context": "4k"}
        return run if self.model else {**run, "args": ["-n", str(_TOY_ANSWER)]}


def _toy(cache: Path, seed: int) -> Path:
    from rolemesh.demo.model import cached_tiny_model

    return cached_tiny_model(cache, seed=seed, name="rolemesh-toy")


def _write(path: Path, settings: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    path.chmod(0o600)
