"""The moment by which something must have happened."""

from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

_LOOK_EVERY = 5.0  # seconds; a call never far away seldom has to be moved, which is what costs


class Deadline:
    """At most one moment and what to do then; cheap enough to be set anew at every request."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due: tuple[float, Callable[[], object]] | None = None
        self._call: IDelayedCall | None = None

    def set(self, seconds: float, action: Callable[[], object]) -> None:
        """Do `action` in `seconds`, and nothing that was to be done before."""
        at = self._clock.seconds() + seconds
        self._due = at, action
        if self._call is None:
            self._look_in(seconds)
        elif self._call.getTime() > at:
            self._call.reset(seconds)

    def clear(self) -> None:
        """Nothing is due any more, until the next `set`."""
        self._due = None

    def stop(self) -> None:
        """As `clear`, and leaves nothing with the clock."""
        self._due = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    def _look_in(self, seconds: float) -> None:
        self._call = self._clock.callLater(min(seconds, _LOOK_EVERY), self._look)

    def _look(self) -> None:
        self._call = None
        if self._due is None:
            return
        at, action = self._due
        left = at - self._clock.seconds()
        if left > 0:
            self._look_in(left)
        else:
            self._due = None
            action()
