"""What `configs/node_agent.yaml` may say, as frozen settings."""

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen


@frozen
class GpuChoice:
    """Which GPUs a llama-server may see: indexes, UUIDs or parts of names; `all`; or none."""

    names: tuple[str | int, ...] = ()
    all: bool = False


@frozen
class Restart:
    """Pauses between starts, in seconds: the first, the longest, and how long ready resets them."""

    first: float = 1.0
    longest: float = 60.0
    reset_after: float = 60.0


@frozen
class Health:
    """How a llama-server is asked whether it is ready; seconds."""

    interval: float = 2.0
    timeout: float = 2.0


@frozen
class Run:
    """One llama-server to keep alive.

    `id` names the backend in the mesh; `context` is tokens per request, 0 for the model's own;
    `llama_server` is the program and its leading arguments.
    """

    id: str
    model: str
    file: Path
    gpu: GpuChoice = GpuChoice()
    slots: int = 1
    context: int = 0
    roles: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    llama_server: tuple[str, ...] = ("llama-server",)
    env: Mapping[str, str] = field(factory=dict, hash=False)


@frozen
class NodeSettings:
    """One node agent. `stop` is the grace in seconds between SIGTERM and SIGKILL."""

    gateways: tuple[str, ...]
    run: tuple[Run, ...] = ()
    name: str = ""
    token: str | None = field(default=None, repr=False)
    advertise: str | None = None
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    ports: range = range(18100, 18200)
    restart: Restart = Restart()
    health: Health = Health()
    stop: float = 10.0
