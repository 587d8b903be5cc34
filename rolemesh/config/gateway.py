"""What `configs/models.yaml` may say, as frozen settings."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from rolemesh.config.files import private_file, secret
from rolemesh.config.problems import Problem
from rolemesh.config.reading import Place, Reader, built, listed, load, settings
from rolemesh.config.roles import existing_role, roles
from rolemesh.config.scalars import boolean, duration, text
from rolemesh.config.urls import listen, network
from rolemesh.core.model import Role

_PASSWORD = re.compile(r"[a-z]+://[^/@]*:[^/@]*@|.*[?&]password=")

DEFAULT_LISTEN = "tcp:8000:interface=127.0.0.1"


@frozen
class NodeRules:
    """Who may register a node: token file, networks of base URLs; may nodes announce roles."""

    tokens: Path | None = None
    allowed_networks: tuple[str, ...] = ()
    announce: bool = True


@frozen
class GatewaySettings:
    """One gateway. `keys` is the file of client keys; `drain` is in seconds; `store` is the URL of
    a PostgreSQL database, None for a file in the state folder."""

    roles: Mapping[str, Role] = field(factory=dict)
    listen: tuple[str, ...] = (DEFAULT_LISTEN,)
    keys: Path | None = None
    nodes: NodeRules = NodeRules()
    unknown_model: str | None = None
    default_role: str | None = None
    drain: float = 30.0
    store: str | None = field(default=None, repr=False)
    warnings: tuple[Problem, ...] = field(default=(), eq=False)


def load_gateway(path: Path, environ: Mapping[str, str]) -> GatewaySettings:
    """Read `models.yaml`; its warnings are in the settings.

    :raises ConfigError: with every problem of the file, and nothing else whatever its bytes are.
    """
    settings, warnings = load(path, environ, _gateway_file)
    return evolve(settings, warnings=warnings)


def _gateway_file(place: Place) -> GatewaySettings:
    found = settings(place, KEYS)
    if not found.get("roles"):
        place.warn("lists no roles, so there are only those that nodes announce")
    return GatewaySettings(**found.pop("gateway", {}), **found)


def _gateway(place: Place) -> dict[str, Any]:
    return settings(place, GATEWAY_KEYS)


def _unknown_model(place: Place) -> str | None:
    return None if place.value == "error" else existing_role(place)


def _store(place: Place) -> str | None:
    """`sqlite`, or where a PostgreSQL database is; with a password only from elsewhere."""
    if place.value == "sqlite":
        return None
    where = secret(place) if isinstance(place.value, dict) else text(place)
    if not where.startswith(("postgresql://", "postgres://")):
        raise place.wrong("write sqlite, postgresql://HOST/DATABASE, {file: PATH} or {env: NAME}")
    if where == place.value and _PASSWORD.match(where):
        raise place.wrong("a password does not stand here: write {file: PATH} or {env: NAME}")
    return where


GATEWAY_KEYS: Mapping[str, Reader[Any]] = {
    "listen": listed(listen, least=1),
    "keys": private_file,
    "nodes": built(
        NodeRules, tokens=private_file, allowed_networks=listed(network), announce=boolean
    ),
    "unknown_model": _unknown_model,
    "default_role": existing_role,
    "drain": duration,
    "store": _store,
}
KEYS: Mapping[str, Reader[Any]] = {"roles": roles, "gateway": _gateway}
