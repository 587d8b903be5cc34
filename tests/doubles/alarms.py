"""A clock whose pending calls can all be called off, so that a double leaves nothing behind."""

from collections.abc import Callable
from typing import Any
from weakref import WeakSet

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarms:
    """Counts time as `clock` does and remembers what it was asked to call later."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._pending: WeakSet[IDelayedCall] = WeakSet()

    def seconds(self) -> float:
        return self._clock.seconds()

    def callLater(self, delay: float, call: Callable[..., object], *args: Any) -> IDelayedCall:
        pending = self._clock.callLater(delay, call, *args)
        self._pending.add(pending)
        return pending

    def call_off(self) -> None:
        """Nothing that was asked for happens any more."""
        for pending in list(self._pending):
            if pending.active():
                pending.cancel()
