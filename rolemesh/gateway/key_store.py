"""Where keys are read from: a file, which may change under us, or another source."""

from pathlib import Path
from typing import Protocol

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.config.keyfile import read_key_file
from rolemesh.config.private import mark
from rolemesh.config.problems import ConfigError
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRing

LOOK_EVERY = 0.5  # seconds between two looks at a key file


class KeySource(Protocol):
    """Where keys are read from."""

    def load(self) -> None:
        """Be ready, before anything listens.

        :raises ConfigError: when that is impossible; its text is for the operator.
        """

    def ring(self) -> KeyRing:
        """The keys as they are now.

        :raises Refusal: `state_unavailable` while they cannot be told.
        """


class KeyStore:
    """The keys of one file as they are now: a changed file counts within a second.

    A file that cannot be read, has become open to others or is broken opens nothing: until it is
    mended every request that needs its keys is refused. The keys of before are not used on, for a
    key may have been revoked in what cannot be read.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, path: Path) -> None:
        self._clock = clock
        self._path = path
        self._ring: KeyRing | None = None
        self._seen: object = None
        self._looked = float("-inf")
        self._problem = ""

    def load(self) -> None:
        """Read the file now.

        :raises ConfigError: when it cannot be used.
        """
        self._seen = mark(self._path)
        self._ring = None
        self._ring = KeyRing(read_key_file(self._path))
        self._problem = ""
        self.log.info("{count} keys in {path}", count=len(self._ring), path=str(self._path))

    def ring(self) -> KeyRing:
        """The keys.

        :raises Refusal: `state_unavailable` while they cannot be read.
        """
        # A clock may be set back, which must not put off the next look.
        if abs(self._clock.seconds() - self._looked) >= LOOK_EVERY:
            self._looked = self._clock.seconds()
            self._look()
        if self._ring is None:
            message = "the gateway cannot read its keys; its own log says why"
            raise Refusal("state_unavailable", message, retry_after=5)
        return self._ring

    def _look(self) -> None:
        if self._ring is not None and mark(self._path) == self._seen:
            return
        try:
            self.load()
        except ConfigError as error:
            self._tell(str(error))

    def _tell(self, problem: str) -> None:
        if problem != self._problem:
            self.log.error("No key is accepted: {problem}", problem=problem)
        self._problem = problem
