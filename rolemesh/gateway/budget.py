"""Retries take turns, so that a failing mesh is not asked more the more it fails."""

from collections import deque
from collections.abc import Callable

from attrs import define
from twisted.internet.defer import Deferred, succeed

SHARE = 0.2  # of the requests under way
FLOOR = 3


@define(eq=False)
class Turn:
    """Leave to make one retry, until `leave` is called for the first time."""

    _left: Callable[[], None] | None = None

    def leave(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()


NO_TURN = Turn()  # what a first try needs


class RetryBudget:
    """Lets few requests at a time try a second backend; the others wait, and none is refused."""

    def __init__(self) -> None:
        self._active = 0
        self._retrying = 0
        self._waiting: deque[Deferred[Turn]] = deque()

    def begin(self) -> None:
        """One more request is looking for its answer."""
        self._active += 1

    def end(self) -> None:
        """It has found it, or given up."""
        self._active -= 1

    def enter(self) -> Deferred[Turn]:
        """Fires when one more retry may be made. Cancelling it leaves."""
        if self._retrying < self._most():
            return succeed(self._turn())
        waiting: Deferred[Turn] = Deferred(self._waiting.remove)
        self._waiting.append(waiting)
        return waiting

    def _turn(self) -> Turn:
        self._retrying += 1
        return Turn(self._left)

    def _left(self) -> None:
        self._retrying -= 1
        while self._waiting and self._retrying < self._most():
            self._waiting.popleft().callback(self._turn())

    def _most(self) -> int:
        return max(FLOOR, int(self._active * SHARE))
