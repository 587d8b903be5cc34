"""Where a gateway listens, read from Twisted's endpoint strings, and what it needs to do so."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener, Serves
from rolemesh.core.addresses import Address, read_address

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


def is_own(address: Address, port: int, ports: Iterable[IListeningPort]) -> bool:
    """Whether a connection to an address and a port comes to one of our open ports."""
    hosts = [each.getHost() for each in ports]
    tcp = [each for each in hosts if isinstance(each, IPv4Address | IPv6Address)]
    places = [read_address(each.host) for each in tcp if each.port == port]
    return any(each == address or _takes(each, address) for each in places)


def _takes(listener: Address | None, address: Address) -> bool:
    """Whether who listens on all of the machine's addresses is found at this one."""
    if listener is None or not listener.is_unspecified:
        return False
    return address.is_loopback or address in _of_this_machine()


def _of_this_machine() -> Iterator[Address | None]:
    for found in psutil.net_if_addrs().values():
        yield from (read_address(each.address.partition("%")[0]) for each in found)


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
