"""The gateways that others told of, kept on disk: one of them may be all that is there tomorrow."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.private import write_private
from rolemesh.core.gateways import MOST, acceptable
from rolemesh.node.aside import Aside

DISK = 2.0  # seconds that writing may take; a sick disk costs the memory of it


class _Kept(Struct):
    """The file; who names other gateways is in another mesh."""

    configured: tuple[str, ...]
    learned: tuple[str, ...]


class Book:
    """Remembers for one list of configured gateways what was learned from them."""

    _log = Logger()

    def __init__(
        self, file: Path, configured: Sequence[str], aside: Aside, clock: IReactorTime
    ) -> None:
        self._file = file
        self._configured = tuple(configured)
        self._aside = aside
        self._clock = clock

    def load(self) -> list[str]:
        """What was learned in an earlier life, as far as it may still be believed."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
            self._log.error("learned gateways cannot be read: {why}", why=str(problem))
            return []
        if kept.configured != self._configured:
            return []
        room = max(0, MOST - len(self._configured))
        return [url for url in kept.learned if acceptable(url, self._configured)][:room]

    def keep(self, learned: Iterable[str]) -> None:
        """Have it on the disk soon."""
        text = msgspec.json.encode(_Kept(self._configured, tuple(learned))).decode()
        writing = self._aside.do(write_private, self._file, text)
        writing.addTimeout(DISK, self._clock).addErrback(self._not_kept)

    def _not_kept(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            why = failure.getErrorMessage() or "it hangs"
            self._log.error("learned gateways are not kept: {why}", why=why)
