"""What `configs/node_agent.yaml` may say, as frozen settings."""

import re
import socket
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

from attrs import evolve, field, frozen

from rolemesh.config.files import folder, secret
from rolemesh.config.problems import Problem
from rolemesh.config.reading import Place, Reader, built, listed, load, mapped, settings
from rolemesh.config.runs import GpuChoice, Run, program, runs
from rolemesh.config.scalars import duration, label, one_of, plain_name, some_time
from rolemesh.config.tls import Trust, trust
from rolemesh.config.urls import address, ports, url

__all__ = ["KEYS", "GpuChoice", "Health", "NodeSettings", "OnExit", "Restart", "Run", "load_node"]


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


class OnExit(Enum):
    """What becomes of the servers when their agent ends."""

    STOP = "stop"
    KEEP = "keep"


@frozen
class NodeSettings:
    """One node agent. `stop` is the grace in seconds between SIGTERM and SIGKILL."""

    gateways: tuple[str, ...]
    run: tuple[Run, ...] = ()
    name: str = ""
    token: str | None = field(default=None, repr=False)
    tls: Trust = field(factory=Trust)
    advertise: str | None = None
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    ports: range = range(18100, 18200)
    restart: Restart = Restart()
    health: Health = Health()
    stop: float = 10.0
    on_exit: OnExit = OnExit.STOP
    warnings: tuple[Problem, ...] = field(default=(), eq=False)


def load_node(path: Path, environ: Mapping[str, str], *, patient: bool = False) -> NodeSettings:
    """Read `node_agent.yaml`; its warnings are in the settings, `name` falls back to the host's.

    When `patient` it only warns of models, their folder, and programs that are not there.

    :raises ConfigError: with every problem of the file, and nothing else whatever its bytes are.
    """
    settings, warnings = load(path, environ, _node_file, patient=patient)
    name = settings.name or _as_name(socket.gethostname())
    return evolve(settings, name=name, warnings=warnings)


def _node_file(place: Place) -> NodeSettings:
    found = settings(place, KEYS, required=("gateway",))
    return NodeSettings(**{_FIELDS[key]: value for key, value in found.items() if key in _FIELDS})


def _gateways(place: Place) -> tuple[str, ...]:
    return tuple(dict.fromkeys(listed(url, least=1)(place)))


def _trust(place: Place) -> Trust:
    gateways = place.document.data.get("gateway")
    for each in gateways if isinstance(gateways, list) else [gateways]:
        if str(each).startswith("http://"):
            raise place.wrong(f"{each} is not encrypted: write https:// to use tls")
    return trust(place)


def _restart(place: Place) -> Restart:
    restart = built(Restart, first=duration, longest=duration, reset_after=duration)(place)
    if restart.longest < restart.first:
        raise place.wrong(f"longest ({restart.longest:g}s) is less than first ({restart.first:g}s)")
    return restart


def _enough_ports(place: Place) -> range:
    found = ports(place)
    entries = place.document.data.get("run")
    needed = len(entries) if isinstance(entries, list) else 1
    if len(found) < needed:
        raise place.wrong(f"{place.shown} is {len(found)} ports, {needed} llama-servers need more")
    return found


def _as_name(host: str) -> str:
    """A host's name as a node's: what does not fit into one becomes a hyphen."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", host).lstrip("._-")[:64] or "node"


KEYS: Mapping[str, Reader[Any]] = {
    "gateway": _gateways,
    "token": secret,
    "tls": _trust,
    "models_dir": folder,
    "run": runs,
    "name": plain_name,
    "advertise": address,
    "labels": mapped(label),
    "llama_server": program,
    "ports": _enough_ports,
    "restart": _restart,
    "health": built(Health, interval=some_time, timeout=some_time),
    "stop": duration,
    "on_exit": one_of(OnExit),
}
_NOT_FIELDS = ("models_dir", "llama_server")  # the entries of `run` have taken them in
_FIELDS = {key: key for key in KEYS if key not in _NOT_FIELDS} | {"gateway": "gateways"}
