"""Where keys are kept, for who reads all of them and changes some: a file, or something like it."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from attrs import frozen

from rolemesh.config.keyfile import key_file_text, read_key_file
from rolemesh.config.private import lock_beside, write_private
from rolemesh.core.keys import KeyRecord

T = TypeVar("T")

Records = tuple[KeyRecord, ...]
Change = Callable[[Records], tuple[Iterable[KeyRecord], T]]


class BookClosed(Exception):
    """Keys that can be neither read nor changed now; says where and why."""


class KeyBook(Protocol):
    """Keys and tokens in one place, which is what `str()` says."""

    def read(self) -> Records:
        """All records; none of a place that is still empty.

        :raises ConfigError: when they make no sense.
        :raises BookClosed: when they are out of reach.
        """

    def change(self, change: Change[T]) -> T:
        """Alone among all who do this, put other records in the place of those there are.

        :param change: told those, returns what shall be there and what this call returns.
        :raises: as `read`; nothing has changed then.
        """


@frozen
class FileBook:
    """A key file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> Records:
        return read_key_file(self.path) if self.path.exists() else ()

    def change(self, change: Change[T]) -> T:
        try:
            with lock_beside(self.path):
                return self._changed(change)
        except OSError as error:
            raise BookClosed(f"{error.filename}: {error.strerror}") from None

    def _changed(self, change: Change[T]) -> T:
        before = self.read()
        wanted, outcome = change(before)
        after = tuple(wanted)
        if after != before:
            write_private(self.path, key_file_text(after))
        return outcome
