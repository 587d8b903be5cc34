"""Looks again and again whether a server makes progress, and says what follows."""

from collections.abc import Hashable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rolemesh.core.lifecycle import Event
from rolemesh.core.model import BackendState as State
from rolemesh.core.vigil import (
    LOOK_EVERY,
    Patience,
    Pulse,
    Signs,
    Vigil,
    loading_progress,
    verdict,
)

LONG_AGO = 3600.0  # seconds; whoever answered then answers no question of today


class Judged(Protocol):
    """A server as its judge sees it."""

    state: State

    def look(self) -> Signs:
        """What the machine sees of its process now."""

    def lines(self) -> int:
        """How much it has logged."""

    def judged(self, event: Event, still: float) -> None:
        """Nothing has moved for `still` seconds, or it moves again."""


class Judge:
    """Judges one process from `start` to `stop`; `signs` and `pulse` are what was seen last."""

    def __init__(self, clock: IReactorTime, patience: Patience, server: Judged) -> None:
        self.signs = Signs()
        self.pulse = Pulse()
        self._clock = clock
        self._patience = patience
        self._server = server
        self._vigil = Vigil()
        self._seen_at = 0.0
        self._heard_at = 0.0
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    @property
    def still(self) -> float:
        """For how many seconds nothing has moved."""
        return self._vigil.still

    @property
    def silent(self) -> float:
        """For how many seconds no question was answered."""
        return self._clock.seconds() - self._heard_at

    def forget(self) -> None:
        """Nothing is known of the process that comes."""
        self.signs, self.pulse, self._vigil = Signs(), Pulse(), Vigil()

    def start(self) -> None:
        """Begin to look."""
        self._seen_at = self._clock.seconds()
        self._loop.start(LOOK_EVERY, now=False)

    def stop(self) -> None:
        """Look no more."""
        if self._loop.running:
            self._loop.stop()

    def hear(self, pulse: Pulse) -> None:
        """Take in what it said of its slots, or that it is silent."""
        self.pulse = pulse
        if pulse.answered:
            self._heard_at = self._clock.seconds()

    def doubt(self) -> None:
        """What it said before counts no more; judge anew."""
        if self._loop.running:
            self._heard_at = self._clock.seconds() - LONG_AGO
            self._look()

    def _look(self) -> None:
        now = self._clock.seconds()
        self.signs = self._server.look()
        self._vigil = self._vigil.seeing(self._progress(), now - self._seen_at)
        self._seen_at = now
        event = verdict(self._server.state, self.still, self.silent, self._patience)
        if event is not None:
            self._server.judged(event, self.still)

    def _progress(self) -> Hashable:
        if self._server.state in (State.STARTING, State.LOADING):
            return loading_progress(self.signs, self._server.lines())
        return self.pulse.progress(self.signs)
