"""Which addresses are those of the gateway itself."""

from collections.abc import Iterable, Iterator

import psutil
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IListeningPort

from rolemesh.core.addresses import Address, read_address


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
