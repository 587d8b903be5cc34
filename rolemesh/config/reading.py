"""The grammar of a configuration: readers turn a place in a document into a setting.

A reader takes a `Place` and returns what stands there, or raises `ConfigError` with everything
that is wrong there. The ones here combine others; those in `scalars` read single values.
"""

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from rolemesh.config.document import MAX_BYTES, Document, Trail, Unreadable, parse
from rolemesh.config.problems import (
    ConfigError,
    Gather,
    Position,
    Problem,
    did_you_mean,
    quoted,
)

T = TypeVar("T")


@frozen
class Place:
    """A value in a document, and the trail of keys and indexes that leads to it."""

    document: Document
    trail: Trail
    value: Any

    def child(self, key: str | int) -> "Place":
        return Place(self.document, (*self.trail, key), self.value[key])

    def optional(self, key: str) -> "Place | None":
        """The child of a mapping, None when there is no such key."""
        return self.child(key) if isinstance(self.value, dict) and key in self.value else None

    @property
    def name(self) -> str:
        """How an error names this place: `roles.coder.use[1]`."""
        dotted = "".join(
            f"[{step}]" if isinstance(step, int) else f".{step}" for step in self.trail
        )
        return dotted.removeprefix(".") or "this file"

    @property
    def shown(self) -> str:
        """The value as it stands in the file, so that no error tells what `${…}` stood for."""
        if self.value is None:
            return "nothing"
        if isinstance(self.value, dict | list):
            return "a mapping" if isinstance(self.value, dict) else "a list"
        return quoted(self.document.written[self.trail])

    def wrong(self, text: str) -> ConfigError:
        """The error that says what is wrong with this value."""
        return self._error(self.document.positions[self.trail], f"{self.name}: {text}")

    def wrong_key(self, text: str) -> ConfigError:
        """The error that says what is wrong with the key that leads here."""
        return self._error(self.document.keys[self.trail], text)

    def expected(self, what: str) -> ConfigError:
        return self.wrong(f"expected {what}, found {self.shown}")

    def warn(self, text: str) -> None:
        self.document.warnings.extend(self.wrong(text).problems)

    @contextmanager
    def patiently(self) -> Iterator[None]:
        """A context for what time may mend: a patient document only warns of it."""
        try:
            yield
        except ConfigError as error:
            if not self.document.patient:
                raise
            self.document.warnings.extend(error.problems)

    def _error(self, position: Position, text: str) -> ConfigError:
        return ConfigError([Problem(self.document.name, position, text)])


Reader = Callable[[Place], T]


def load(
    path: Path, environ: Mapping[str, str], reader: Reader[T], *, patient: bool = False
) -> tuple[T, tuple[Problem, ...]]:
    """Read a whole file; what it says, and warnings, each once.

    :raises ConfigError: with every problem of the file.
    """
    document = open_document(path, environ)
    document.patient = patient
    gather = Gather(document.problems)
    with gather:
        settings = read(Place(document, (), document.data), reader)
    gather.finish()
    return settings, tuple(dict.fromkeys(document.warnings))


def open_document(path: Path, environ: Mapping[str, str]) -> Document:
    """Read a file that nobody but its owner and, with a warning, its group may write.

    :raises ConfigError: when it cannot be read, is world-writable, or is not YAML.
    """

    def problem(text: str) -> Problem:
        return Problem(str(path), Position(), text)

    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError([problem("cannot be read: not a file")])
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError([problem(f"cannot be read: {error.strerror}")]) from None
    if status.st_mode & stat.S_IWOTH:
        raise ConfigError([problem(f"anybody may write it: chmod o-w {path}")])
    document = parse(content, path, environ)
    if status.st_mode & stat.S_IWGRP:
        document.warnings.append(problem(f"its group may write it: chmod g-w {path}"))
    return document


def read(place: Place, reader: Reader[T]) -> T:
    """What a reader makes of a place.

    :raises ConfigError: with what is wrong there; with nothing when that is told already.
    """
    if isinstance(place.value, Unreadable):
        raise ConfigError([])
    return reader(place)


def settings(
    place: Place, readers: Mapping[str, Reader[Any]], required: Sequence[str] = ()
) -> dict[str, Any]:
    """What a mapping with known keys says, of the keys that it has; an empty place says nothing."""
    found: dict[str, Any] = {}
    gather = Gather()
    for key, child in entries(place):
        with gather:
            found[key] = read(child, _reader_of(child, key, readers))
    missing = [quoted(key) for key in required if not place.optional(key)]
    if missing:
        with gather:
            raise place.wrong(f"needs {' and '.join(missing)}")
    gather.finish()
    return found


def built(make: Callable[..., T], **readers: Reader[Any]) -> Reader[T]:
    """A reader of a mapping whose keys are the arguments of what is made of it."""
    return lambda place: make(**settings(place, readers))


def entries(place: Place) -> Iterator[tuple[str, Place]]:
    """The keys of a mapping and the places that they lead to; none of an empty place."""
    if place.value is not None and not isinstance(place.value, dict):
        raise place.expected("a mapping of keys")
    for key in place.value or ():
        yield key, place.child(key)


def listed(reader: Reader[T], least: int = 0, most: int | None = None) -> Reader[tuple[T, ...]]:
    """A reader of a list, or of a single value that stands for a list of one."""

    def read_list(place: Place) -> tuple[T, ...]:
        if not isinstance(place.value, list):
            return (read(place, reader),)
        if len(place.value) < least:
            raise place.wrong("must not be empty")
        if most is not None and len(place.value) > most:
            raise place.wrong(f"has {len(place.value)} entries, {most} is the most")
        return _each(place, reader)

    return read_list


def mapped(reader: Reader[T]) -> Reader[dict[str, T]]:
    """A reader of a mapping whose keys are free and whose values are all of one kind."""

    def read_mapping(place: Place) -> dict[str, T]:
        found: dict[str, T] = {}
        gather = Gather()
        for key, child in entries(place):
            with gather:
                found[key] = read(child, reader)
        gather.finish()
        return found

    return read_mapping


def _each(place: Place, reader: Reader[T]) -> tuple[T, ...]:
    found: list[T] = []
    gather = Gather()
    for index in range(len(place.value)):
        with gather:
            found.append(read(place.child(index), reader))
    gather.finish()
    return tuple(found)


def _reader_of(child: Place, key: str, readers: Mapping[str, Reader[Any]]) -> Reader[Any]:
    if key in readers:
        return readers[key]
    parent = Place(child.document, child.trail[:-1], None).name
    raise child.wrong_key(
        f"unknown key {quoted(key)} in {parent}{did_you_mean(key, list(readers))}"
    )
