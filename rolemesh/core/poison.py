"""Requests that killed backends: known again by a hash, and refused for a while."""

from collections import OrderedDict
from hashlib import sha256

from rolemesh.core.errors import Refusal

REMEMBERED = 600.0  # seconds
MOST = 1024


class Poison:
    """The bodies that took down as many backends as one request may; times are of one clock."""

    def __init__(self) -> None:
        self._until: OrderedDict[bytes, float] = OrderedDict()

    def found(self, body: bytes, now: float) -> None:
        """Remember a body."""
        self._until[sha256(body).digest()] = now + REMEMBERED
        if len(self._until) > MOST:
            self._until.popitem(last=False)

    def refuse(self, body: bytes, now: float) -> None:
        """Refuse a body that is remembered.

        :raises Refusal: poison_request.
        """
        if not self._until:
            return
        until = self._until.get(sha256(body).digest())
        if until is not None and now < until:
            raise Refusal(
                "poison_request",
                "This very request made two backends fail; it is refused for another "
                f"{(until - now) / 60:.0f} minutes. Change it before you send it again.",
            )
