"""Looks again and again whether a server makes progress."""

from collections.abc import Callable, Hashable

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rolemesh.core.vigil import Vigil


class Judge:
    """From `start` to `stop` asks for the `progress`, and tells for how long it has stood still."""

    def __init__(
        self,
        clock: IReactorTime,
        every: float,
        progress: Callable[[], Hashable],
        tell: Callable[[float], None],
    ) -> None:
        self._clock = clock
        self._every = every
        self._progress = progress
        self._tell = tell
        self._vigil = Vigil()
        self._seen = 0.0
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    @property
    def still(self) -> float:
        """For how many seconds nothing has moved."""
        return self._vigil.still

    def start(self) -> None:
        """Begin with a process that is new."""
        self._vigil, self._seen = Vigil(), self._clock.seconds()
        self._loop.start(self._every, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()

    def _look(self) -> None:
        now = self._clock.seconds()
        self._vigil = self._vigil.seeing(self._progress(), now - self._seen)
        self._seen = now
        self._tell(self._vigil.still)
