"""Where a gateway listens, and what it serves there."""

from enum import Enum
from typing import Any

from attrs import frozen

from rolemesh.config.reading import Place, listed, settings
from rolemesh.config.scalars import one_of
from rolemesh.config.tls import ServerTls, server_tls
from rolemesh.config.urls import listen


class Serves(Enum):
    """The kinds of routes: for clients, for node agents, for operators, and the figures."""

    PUBLIC = "public"
    NODES = "nodes"
    ADMIN = "admin"
    METRICS = "metrics"


@frozen
class Listener:
    """A Twisted endpoint string, its TLS, None for plain HTTP, and the routes that exist there,
    None for all that the gateway has."""

    endpoint: str
    tls: ServerTls | None = None
    serves: frozenset[Serves] | None = None

    @property
    def certifies_clients(self) -> bool:
        """Whether nobody comes in without a certificate."""
        return self.tls is not None and self.tls.client_ca is not None

    def offers(self, what: Serves) -> bool:
        """Whether routes of that kind exist here."""
        return self.serves is None or what in self.serves


def listener(place: Place) -> Listener:
    """An endpoint string, or a mapping of it with what holds there."""
    if not isinstance(place.value, dict):
        return Listener(listen(place))
    readers: dict[str, Any] = {"endpoint": listen, "tls": server_tls, "serves": _serves}
    found = settings(place, readers, required=("endpoint",))
    if "tls" in found and found["endpoint"].startswith("ssl:"):
        raise place.wrong("endpoint is ssl: already; with tls write tcp:")
    return Listener(**found)


def _serves(place: Place) -> frozenset[Serves]:
    return frozenset(listed(one_of(Serves), least=1)(place))
