"""Requests that killed backends: known again, and refused for a while."""

from collections import OrderedDict

from rolemesh.core.errors import Refusal

REMEMBERED = 600.0  # seconds
MOST = 4096
DEATHS = 2


class Poison:
    """How many backends each request took down lately; requests are told apart by a hash.

    One that was answered is no poison, whatever fell down beside it. Times are of one clock.
    """

    def __init__(self) -> None:
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._served: OrderedDict[bytes, None] = OrderedDict()

    def died(self, request: bytes, now: float) -> None:
        """A backend went down over this request."""
        if request in self._served:
            return
        count, since = self._deaths.pop(request, (0, now))
        if now - since >= REMEMBERED:
            count = 0
        self._deaths[request] = (count + 1, now)
        if len(self._deaths) > MOST:
            self._deaths.popitem(last=False)

    def served(self, request: bytes) -> None:
        """A backend began to answer it."""
        self._deaths.pop(request, None)
        self._served[request] = None
        self._served.move_to_end(request)
        if len(self._served) > MOST:
            self._served.popitem(last=False)

    def refuse(self, request: bytes, now: float) -> None:
        """Refuse a request that has taken down as many backends as one may.

        :raises Refusal: poison_request.
        """
        count, since = self._deaths.get(request, (0, now))
        left = since + REMEMBERED - now
        if count >= DEATHS and left > 0:
            raise Refusal(
                "poison_request",
                f"This very request made {count} backends fail; it is refused for another "
                f"{left / 60:.0f} minutes. Change it before you send it again.",
            )
