"""What `configs/models.yaml` may say, as frozen settings."""

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from rolemesh.core.model import Role

DEFAULT_LISTEN = "tcp:8000:interface=127.0.0.1"


@frozen
class NodeRules:
    """Who may register a node: token file, networks of base URLs, whether nodes may announce roles."""

    tokens: Path | None = None
    allowed_networks: tuple[str, ...] = ()
    announce: bool = True


@frozen
class GatewaySettings:
    """One gateway. `keys` is the file of client keys; `drain` is in seconds."""

    roles: Mapping[str, Role] = field(factory=dict)
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    keys: Path | None = None
    nodes: NodeRules = NodeRules()
    unknown_model: str | None = None
    default_role: str | None = None
    drain: float = 30.0
