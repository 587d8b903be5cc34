"""Which Host a request may name where no key protects what is asked for.

A page of any website can have its own name resolve to 127.0.0.1, and then read our answers through
the browser of who looks at it. The name in the Host field gives it away.
"""

from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IAddress

from rolemesh.core.addresses import read_address
from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge_request import EdgeRequest


class Hosts:
    """Takes loopback's names, the address that was connected to, and what the file allows. With
    keys, all but what a browser shows is protected by these."""

    def __init__(self, allowed: Iterable[str], keyless: bool) -> None:
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed) | {"localhost"}
        self._keyless = keyless

    def check(self, request: EdgeRequest) -> None:
        """Refuse a request that was meant for another host.

        :raises Refusal: `scope_missing`.
        """
        path = unquote_to_bytes(request.path) + b"/"  # which is how Klein reads it
        if not self._keyless and not path.startswith(b"/ui/"):
            return
        field = request.getHeader("host")
        here = request.channel.getHost()
        if field is None or not hasattr(here, "host"):  # an old client; a unix socket
            return
        if not self._is_ours(_name(field), here):
            raise Refusal(
                "scope_missing",
                "The Host of this request is not one of this gateway's: call it by the address that"
                " it listens on, or have its operator add the name to gateway.allowed_hosts.",
            )

    def _is_ours(self, name: str, here: IAddress) -> bool:
        if name in self._allowed:
            return True
        address = read_address(name)
        return address is not None and (
            address.is_loopback or address == read_address(getattr(here, "host", None))
        )


def _name(field: str) -> str:
    """The host in a Host field, without its port."""
    if field.startswith("["):
        return field[1:].partition("]")[0].lower()
    return field.partition(":")[0].lower().rstrip(".")
