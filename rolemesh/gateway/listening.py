"""Where a gateway listens, read from Twisted's endpoint strings."""

import re
from collections.abc import Iterable

from rolemesh.core.addresses import read_address

_PART = re.compile(r"((?:\\.|[^:\\])*)(?::|\Z)")


def loopback_only(endpoints: Iterable[str]) -> bool:
    """Whether none of the endpoints can be reached from another machine."""
    return all(map(_is_loopback, endpoints))


def _is_loopback(endpoint: str) -> bool:
    kind, *rest = (part.replace("\\", "") for part in _PART.findall(endpoint))
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
