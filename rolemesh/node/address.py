"""Which address of this machine its llama-servers bind to, and gateways call."""

from collections.abc import Callable, Sequence
from urllib.parse import urlsplit

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rolemesh.node.host import LOOPBACK, address_towards, is_loopback

RETRY = 5.0  # seconds; a machine that has just booted may have no route yet


class OwnAddress:
    """Loopback when every gateway is on loopback, else what the file advertises, else the address
    from which the first gateway beyond loopback is reached.

    `resolve` gives a Deferred of the IP address of a host name.
    """

    _log = Logger()

    def __init__(
        self,
        gateways: Sequence[str],
        advertise: str | None,
        clock: IReactorTime,
        resolve: Callable[[str], Deferred[str]],
    ) -> None:
        self._beyond = [url for url in gateways if not is_loopback(url)]
        self._advertise = advertise
        self._clock = clock
        self._resolve = resolve

    async def find(self) -> str:
        """The address, as soon as there is one."""
        if not self._beyond:
            return LOOPBACK
        return self._advertise or await self._towards(self._beyond[0])

    async def _towards(self, gateway: str) -> str:
        told = False
        while (address := await self._try(gateway)) is None:
            if not told:
                self._log.warn(
                    "no way to {gateway} yet; servers start when there is one, "
                    "or at once where `advertise` names this machine's address",
                    gateway=gateway,
                )
            told = True
            await deferLater(self._clock, RETRY)
        return address

    async def _try(self, gateway: str) -> str | None:
        try:
            address = await self._resolve(urlsplit(gateway).hostname or "")
        except CancelledError:
            raise
        except Exception:  # no such name, no resolver: the network may come later
            return None
        return address_towards(address)
