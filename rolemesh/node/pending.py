"""What the life of a server waits for: a time, and something that takes time."""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.core.lifecycle import Event


class Pending:
    """One of each at most; what comes of them is an event."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, name: str, happen: Callable[[Event], None]) -> None:
        self._clock = clock
        self._name = name
        self._happen = happen
        self._timer: IDelayedCall | None = None
        self._work: Deferred[Any] | None = None

    @property
    def seconds(self) -> float | None:
        """Until the time has come; None without one."""
        return None if self._timer is None else self._timer.getTime() - self._clock.seconds()

    def later(self, seconds: float, event: Event) -> None:
        """Have it happen then, and nothing else that was to happen at a time."""
        self.forget_time()
        self._timer = self._clock.callLater(seconds, self._elapsed, event)

    def work(self, coroutine: Coroutine[Deferred[Any], Any, Event]) -> None:
        """Do what takes time."""
        self._work = working = Deferred.fromCoroutine(coroutine)
        working.addCallbacks(self._happen, self._broken)

    def forget_time(self) -> None:
        """Wait for no time."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def forget_work(self) -> None:
        """Give up what takes time."""
        working, self._work = self._work, None
        if working is not None:
            working.cancel()

    def _elapsed(self, event: Event) -> None:
        self._timer = None
        self._happen(event)

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("{backend}: its probe broke", failure, backend=self._name)
