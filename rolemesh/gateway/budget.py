"""Retries take turns, so that a failing mesh is not asked more the more it fails."""

from collections import deque

from twisted.internet.defer import Deferred, succeed

SHARE = 0.2  # of the requests under way
FLOOR = 3


class RetryBudget:
    """Lets few requests at a time try a second backend; the others wait, and none is refused."""

    def __init__(self) -> None:
        self._active = 0
        self._retrying = 0
        self._waiting: deque[Deferred[None]] = deque()

    def begin(self) -> None:
        """One more request is looking for its answer."""
        self._active += 1

    def end(self) -> None:
        """It has found it, or given up."""
        self._active -= 1

    def enter(self) -> Deferred[None]:
        """Fires when one more retry may be made; then `leave` is owed. Cancelling it leaves."""
        if self._retrying < self._most():
            self._retrying += 1
            return succeed(None)
        turn: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(turn)
        return turn

    def leave(self) -> None:
        """A retry has come to something, good or bad."""
        self._retrying -= 1
        while self._waiting and self._retrying < self._most():
            self._retrying += 1
            self._waiting.popleft().callback(None)

    def _most(self) -> int:
        return max(FLOOR, int(self._active * SHARE))
