"""How several gateways share one backend's slots without talking: each counts its own requests, and
learns from the node's reports what is under way beyond them."""

from collections import deque
from itertools import islice
from math import inf
from urllib.parse import urlsplit

from attrs import define, field, frozen

from rolemesh.core.model import Backend

WINDOW = 3.0  # seconds; what a report tells was seen so long ago at the most
ON_THE_WAY = 0.3  # seconds that a report may take from there to here


@define
class Peak:
    """The most requests of ours that were under way at one time, lately.

    A report may be of a moment before some of ours ended, which are nobody else's for that.
    """

    _seen: deque[tuple[float, int]] = field(factory=deque)

    def saw(self, count: int, now: float) -> None:
        """So many are under way from now on."""
        since = now
        while self._seen and self._seen[-1][1] <= count:
            since, _ = self._seen.pop()  # what was more then ended then
        self._seen.append((since, count))

    def lately(self, now: float, age: float | None = None) -> int:
        """The most at one time since what a report tells was seen, `age` seconds before it came;
        that is not known of all reports."""
        while len(self._seen) > 1 and self._seen[1][0] <= now - WINDOW:
            self._seen.popleft()
        since = now - (WINDOW if age is None else min(WINDOW, age + ON_THE_WAY))
        ends = (*(when for when, _ in islice(self._seen, 1, None)), inf)
        held = (count for (_, count), end in zip(self._seen, ends, strict=False) if end > since)
        return max(held, default=0)


@frozen
class Share:
    """What a report makes of a backend: how many slots are others', and by how many requests it
    holds more than it has slots."""

    elsewhere: int = 0
    overshoot: int = 0


def share(told: int, own: int, slots: int | None) -> Share:
    """A gateway's view of a backend that has `told` requests, `own` of them ours.

    Where there are too many, each gateway gives way in proportion to what it has. One slot is left
    to everybody: who never sends would starve behind who always does.
    """
    others = max(0, told - own)
    if slots is None:
        return Share(others)
    overshoot = max(0, told - slots)
    if overshoot:
        others = slots - slots * min(own, told) // told
    return Share(min(others, slots - 1), overshoot)


def same_slots(one: Backend, other: Backend) -> bool:
    """Whether two entries that are `at_one_place` stand for the same slots.

    A llama-server has one model and its slots, whatever it is asked for. Another server may have
    slots for each of the models that are named there.
    """
    whatever = one.llama_server or other.llama_server or None in (one.model, other.model)
    return whatever or one.model == other.model


def at_one_place(one: Backend, other: Backend) -> bool:
    """Whether two base URLs are one, however they are written."""
    return _place(one.base_url) == _place(other.base_url)


def _place(url: str) -> tuple[str, str, int, str]:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, parts.hostname or "", port, parts.path.rstrip("/")
