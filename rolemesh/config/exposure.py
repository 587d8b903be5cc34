"""What a gateway needs to listen where it can be reached from other machines."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener, Serves
from rolemesh.core.addresses import read_address

BALANCED = "haproxy:"  # whoever listens for a balancer has clients from elsewhere
_PART = re.compile(r"((?:\\.|[^:\\])*)(?::|\Z)")


def loopback_only(endpoints: Iterable[str]) -> bool:
    """Whether none of the endpoints can be reached from another machine."""
    return all(map(is_loopback, endpoints))


def exposed(settings: GatewaySettings, listeners: Iterable[Listener], path: Path) -> Iterator[str]:
    """What keeps a gateway with these settings, which stand at `path`, from listening there; each
    is a line that says what to do."""
    beyond = [
        each
        for each in listeners
        if not is_loopback(each.endpoint) or each.endpoint.startswith(BALANCED)
    ]
    where = ", ".join(each.endpoint for each in beyond)
    if beyond and settings.keys is None:
        yield (
            f"{path}: listening on {where} without client keys would open this mesh to the network;"
            f" make one with `rolemesh keys add --file {path.parent / 'keys.yaml'}` and set"
            " `gateway: {keys: {file: keys.yaml}}`"
        )
    meant = [each.endpoint for each in beyond if each.serves and Serves.NODES in each.serves]
    if meant and settings.nodes.tokens is None:
        yield (
            f"{path}: serving nodes on {', '.join(meant)} takes node tokens; make one with"
            f" `rolemesh keys add --file {path.parent / 'nodes.yaml'} --node NAME` and set"
            " `gateway: {nodes: {tokens: {file: nodes.yaml}}}`"
        )


def is_loopback(endpoint: str) -> bool:
    """Whether an endpoint surely cannot be reached from another machine."""
    kind, *rest = (part.replace("\\", "") for part in _PART.findall(endpoint))
    if kind == BALANCED.rstrip(":"):
        kind, *rest = rest or [""]
    if kind == "unix":
        return True
    if kind not in ("tcp", "ssl", "tcp6", "tcp4"):
        return False
    for part in rest:
        name, _, value = part.partition("=")
        if name == "interface":
            return _is_loopback_host(value)
    return False


def _is_loopback_host(host: str) -> bool:
    address = read_address(host)
    return host == "localhost" or (address is not None and address.is_loopback)
