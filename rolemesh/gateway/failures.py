"""How often requests without a valid key came from one address of late."""

from collections import OrderedDict
from ipaddress import IPv6Address

from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IRequest

from rolemesh.core.addresses import Address, read_address

FAILURES_PER_SECOND = 10  # of one address; more are told to wait
ADDRESSES = 4096  # whose failures are remembered


class Failures:
    """How often each address failed of late, in bounded memory: the longest silent is forgotten."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._levels: OrderedDict[object, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def too_many(self, address: Address | None) -> bool:
        """Count a failure; True when the address had its share for this second already."""
        now = self._clock.seconds()
        key = _household(address)
        level, since = self._levels.pop(key, (0.0, now))
        level = max(0.0, level - max(0.0, now - since) * FAILURES_PER_SECOND)
        over = level + 1 > FAILURES_PER_SECOND
        self._levels[key] = (level if over else level + 1, now)
        if len(self._levels) > ADDRESSES:
            self._levels.popitem(last=False)
        return over


def address_of(request: IRequest) -> Address | None:
    """The address that a request came from; None over a unix socket."""
    return read_address(getattr(request.getClientAddress(), "host", None))


def _household(address: Address | None) -> object:
    """What one sender holds: an IPv4 address, or the 2^64 addresses of an IPv6 network."""
    return int(address) >> 64 if isinstance(address, IPv6Address) else address
