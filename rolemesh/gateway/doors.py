"""The ways into a gateway: for each listener its TLS, and what its connections may ask for."""

from collections.abc import Sequence
from typing import Any

from twisted.internet.interfaces import IAddress, IProtocolFactory, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from rolemesh.config.exposure import is_loopback
from rolemesh.config.listeners import Listener
from rolemesh.gateway.edge import EdgeChannel
from rolemesh.gateway.edge_site import EdgeSite
from rolemesh.tls.ending import Endings
from rolemesh.tls.server import ServerSide, behind_tls


@implementer(IProtocolFactory)
class Door:
    """Lets connections into the site, and has them know by which listener they came."""

    noisy = False

    def __init__(self, site: EdgeSite, listener: Listener) -> None:
        self._site = site
        self._listener = listener

    def doStart(self) -> None:
        self._site.doStart()

    def doStop(self) -> None:
        self._site.doStop()

    def buildProtocol(self, addr: IAddress | None) -> EdgeChannel | None:
        channel: EdgeChannel | None = self._site.buildProtocol(addr)
        if channel is not None:
            channel.listener = self._listener
        return channel


class Doors:
    """All listeners of a gateway; when their certificates end is noted in `endings`."""

    log = Logger()

    def __init__(
        self, clock: IReactorTime, listeners: Sequence[Listener], endings: Endings
    ) -> None:
        self._clock = clock
        self._listeners = listeners
        self._sides = {
            each: ServerSide(clock, each.tls, endings) for each in listeners if each.tls is not None
        }

    def load(self) -> None:
        """Read certificates and keys, before anything listens.

        :raises TlsProblem: when some cannot be used.
        """
        for side in self._sides.values():
            side.load()
        for listener in self._listeners:
            if _is_open(listener):
                self.log.warn(
                    "listening on {endpoint} without TLS: keys and prompts can be read on the way",
                    endpoint=listener.endpoint,
                )

    def reload(self) -> None:
        """Read certificates and keys again; what cannot be used is told, and changes nothing."""
        for side in self._sides.values():
            side.reload()

    def into(self, site: EdgeSite) -> list[tuple[str, IProtocolFactory]]:
        """The endpoints, each with the factory that is to be served there."""
        return [(each.endpoint, self._factory(each, site)) for each in self._listeners]

    def _factory(self, listener: Listener, site: EdgeSite) -> Any:
        door, side = Door(site, listener), self._sides.get(listener)
        return door if side is None else behind_tls(side, door, self._clock)


def _is_open(listener: Listener) -> bool:
    encrypted = listener.tls is not None or listener.endpoint.startswith("ssl:")
    return not encrypted and not is_loopback(listener.endpoint)
