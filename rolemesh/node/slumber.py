"""Notices that the machine slept, which no clock of the agent's counts."""

import sys
import time
from collections.abc import Callable

LONG = 30.0  # seconds; whoever slept longer knows nothing of what runs now


def slept_until_now() -> float:
    """Seconds that this machine has slept since its boot."""
    if sys.platform != "linux":
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


class Slumber:
    """Looked at before anything is told; `woken` is called after each long sleep."""

    def __init__(
        self, woken: Callable[[], None], slept: Callable[[], float] = slept_until_now
    ) -> None:
        self._woken = woken
        self._slept = slept
        self._before = slept()

    def look(self) -> None:
        """See whether it slept since the last look."""
        before, self._before = self._before, self._slept()
        if self._before - before > LONG:
            self._woken()
