"""What `configs/models.yaml` may say, as frozen settings."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from rolemesh.config.files import private_file, secret
from rolemesh.config.listeners import Listener, listener
from rolemesh.config.problems import Problem
from rolemesh.config.reading import Place, Reader, built, listed, load, settings
from rolemesh.config.roles import existing_role, roles
from rolemesh.config.scalars import boolean, duration, size, text
from rolemesh.config.urls import address, network, url
from rolemesh.core.model import Role

KeyPlace = Path | Literal["store"]

_PASSWORD = re.compile(r"[a-z]+://[^/@]*:[^/@]*@|.*[?&]password=")

DEFAULT_LISTEN = Listener("tcp:8000:interface=127.0.0.1")


@frozen
class NodeRules:
    """Who may register a node: where tokens are, networks of base URLs; may nodes announce roles.
    `advertise` is the URL by which nodes reach this gateway."""

    tokens: KeyPlace | None = None
    allowed_networks: tuple[str, ...] = ()
    announce: bool = True
    advertise: str | None = None


@frozen
class GatewaySettings:
    """One gateway. `allowed_hosts` are names by which a browser here may call it; `keys` is where
    client keys are, a file or the store; `drain` is in seconds; `memory_max`, in
    bytes, is what the process may use, None for what its control group allows; `store` is the URL
    of a PostgreSQL database, None for a file in the state folder; `files` are those that the
    configuration names, of keys, secrets and certificates."""

    roles: Mapping[str, Role] = field(factory=dict)
    listen: tuple[Listener, ...] = (DEFAULT_LISTEN,)
    allowed_hosts: tuple[str, ...] = ()
    keys: KeyPlace | None = None
    nodes: NodeRules = NodeRules()
    unknown_model: str | None = None
    default_role: str | None = None
    drain: float = 30.0
    memory_max: int | None = None
    store: str | None = field(default=None, repr=False)
    files: tuple[Path, ...] = field(default=(), eq=False)
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
    files = tuple(dict.fromkeys(place.document.named))
    return GatewaySettings(**found.pop("gateway", {}), **found, files=files)


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
    if where == place.value and holds_password(where):
        raise place.wrong("a password does not stand here: write {file: PATH} or {env: NAME}")
    return where


def _key_place(place: Place) -> KeyPlace:
    """A file, or `store` where that is a database: what `rolemesh keys` changes there is heard of,
    and an SQLite file tells nobody."""
    if place.value != "store":
        if isinstance(place.value, str):
            raise place.wrong("write {file: PATH}, or store")
        return private_file(place)
    if place.document.data["gateway"].get("store") in (None, "sqlite"):
        raise place.wrong("takes gateway.store: postgresql://HOST/NAME, else write {file: PATH}")
    return "store"


def holds_password(url: str) -> bool:
    """Whether a URL of a database has a password in it."""
    return _PASSWORD.match(url) is not None


GATEWAY_KEYS: Mapping[str, Reader[Any]] = {
    "listen": listed(listener, least=1),
    "allowed_hosts": listed(address),
    "keys": _key_place,
    "nodes": built(
        NodeRules,
        tokens=_key_place,
        allowed_networks=listed(network),
        announce=boolean,
        advertise=url,
    ),
    "unknown_model": _unknown_model,
    "default_role": existing_role,
    "drain": duration,
    "memory_max": size,
    "store": _store,
}
KEYS: Mapping[str, Reader[Any]] = {"roles": roles, "gateway": _gateway}
