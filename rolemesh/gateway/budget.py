"""Retries take turns and become few, so that a failing mesh is not asked more the more it fails.

Those at backends that do answer are never refused; those at backends that have only failed lately
are paid for out of what the requests before have saved.
"""

from collections import deque
from collections.abc import Callable

from attrs import define, frozen
from twisted.internet.defer import Deferred, succeed

from rolemesh.core.model import BackendId

SHARE = 0.2  # of the requests under way, and of all
FLOOR = 3
SAVED = 10.0  # retries at the most; as many as there are to begin with
DOUBTED = 3  # failures in a row, from which on a backend is no hope to a retry
LATELY = 30.0  # seconds; who has not been asked for so long may be well again


@define(eq=False)
class Turn:
    """Leave to make one retry, until `leave` is called for the first time."""

    _left: Callable[[], None] | None = None

    def leave(self) -> None:
        left, self._left = self._left, None
        if left is not None:
            left()


NO_TURN = Turn()  # what a first try needs


@frozen
class _Row:
    """Failures of a backend that no answer has come between, the last at an instant."""

    count: int
    last: float


class RetryBudget:
    """Lets few requests at a time try a second backend; the others wait.

    Where backends only fail, a fifth of the requests is tried a second time, and no more.
    """

    def __init__(self) -> None:
        self._active = 0
        self._retrying = 0
        self._waiting: deque[Deferred[Turn]] = deque()
        self._saved = SAVED
        self._rows: dict[BackendId, _Row] = {}

    def begin(self) -> None:
        """One more request is looking for its answer."""
        self._active += 1
        self._saved = min(SAVED, self._saved + SHARE)

    def end(self) -> None:
        """It has found it, or given up."""
        self._active -= 1

    def failed(self, id: BackendId, now: float) -> None:
        """A try at a backend came to nothing."""
        row = self._rows.get(id)
        before = row.count if row is not None and now - row.last < LATELY else 0
        self._rows[id] = _Row(before + 1, now)

    def answered(self, id: BackendId) -> None:
        """A backend has begun to answer, or is gone: what it failed before is no matter."""
        self._rows.pop(id, None)

    def hopeless(self, now: float) -> frozenset[BackendId]:
        """The backends that no retry may go to now."""
        if self._saved >= 1:
            return frozenset()
        return frozenset(id for id in self._rows if self._doubted(id, now))

    def spend(self, id: BackendId, now: float) -> bool:
        """Pay for a retry at a backend; whether it may be made."""
        if not self._doubted(id, now):
            return True
        if self._saved < 1:
            return False
        self._saved -= 1
        return True

    def _doubted(self, id: BackendId, now: float) -> bool:
        row = self._rows.get(id)
        return row is not None and row.count >= DOUBTED and now - row.last < LATELY

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
