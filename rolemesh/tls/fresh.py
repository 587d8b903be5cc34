"""What is made of files that change while a program runs."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.config.private import mark

LOOK_EVERY = 0.5  # seconds between two looks at files

T = TypeVar("T")


class TlsProblem(Exception):
    """Files from which no TLS can be made, told in one line."""


class Fresh(Generic[T]):
    """What is made of files, made again within a second of a change to one of them.

    Files that cannot be used are told once, and what was made before stays. `make` raises
    TlsProblem.
    """

    log = Logger()

    def __init__(
        self, clock: IReactorTime, paths: Iterable[Path | None], make: Callable[[], T]
    ) -> None:
        self._clock = clock
        self._paths = tuple(path for path in paths if path is not None)
        self._make = make
        self._seen: object = None
        self._looked = 0.0
        self._made: T

    def load(self) -> None:
        """Make it now; raises TlsProblem."""
        self._seen, self._looked = self._marks(), self._clock.seconds()
        self._made = self._make()

    def reload(self) -> None:
        """Make it now, if that can be done."""
        try:
            self.load()
        except TlsProblem as problem:
            self.log.error("TLS stays as it was: {problem}", problem=str(problem))

    def current(self) -> T:
        """It, as the files are now; `load` came first."""
        # A clock may be set back, which must not put off the next look.
        if abs(self._clock.seconds() - self._looked) >= LOOK_EVERY:
            self._looked = self._clock.seconds()
            if self._marks() != self._seen:
                self.reload()
        return self._made

    def _marks(self) -> object:
        return tuple(mark(path) for path in self._paths)
