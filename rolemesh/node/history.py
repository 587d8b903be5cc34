"""How a server has ended so far, and what that means for its next start."""

from collections import deque

from rolemesh.config.node import Restart
from rolemesh.core.endings import (
    LOOP_ENDINGS,
    LOOP_PAUSE,
    REMEMBERED,
    Ending,
    Reason,
    looping,
    pause,
)


class History:
    """The ends of one server; `last` stays until there is another one."""

    def __init__(self, restart: Restart) -> None:
        self.last: Ending | None = None
        self._restart = restart
        self._recent: deque[Ending] = deque(maxlen=REMEMBERED)
        self._times: deque[float] = deque(maxlen=LOOP_ENDINGS + 1)

    def add(self, ending: Ending, now: float) -> None:
        """One more; what an operator ordered is no sign of a crash loop."""
        self.last = ending
        self._recent.append(ending)
        if ending.reason is not Reason.ORDERED:
            self._times.append(now)

    def forgive(self) -> None:
        """The next pause is as after a first end; how often it ended of late stays known."""
        self._recent.clear()

    def forget(self) -> None:
        """As if it had never ended."""
        self._recent.clear()
        self._times.clear()

    def looping(self, now: float) -> bool:
        """Whether it ended too often of late."""
        return looping(self._times, now)

    def pause(self, jitter: float) -> float:
        """Seconds to the next start."""
        return pause(tuple(self._recent), self._restart.first, self._restart.longest, jitter)

    def rest(self) -> float:
        """Seconds to the next start in a crash loop."""
        return max(LOOP_PAUSE, self._restart.longest)
