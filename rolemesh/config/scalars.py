"""Readers of single values: text, numbers, durations, sizes, names."""

import re
from enum import Enum
from typing import TypeVar

from rolemesh.config.problems import did_you_mean
from rolemesh.config.reading import Place, Reader

E = TypeVar("E", bound=Enum)

LONGEST = 365 * 86400.0  # seconds; a longer duration is a slip of the pen
LARGEST = 1 << 50

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_PART = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(d|h|ms|m|s)")
_DURATION = re.compile(f"(?:{_DURATION_PART.pattern})+")
_SIZE = re.compile(r"([0-9]{1,15}) ?(?:([kmg])(?:i?b|i)?)?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_ROLE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,127}")
_LABEL_VALUE = 256  # characters, as the wire between node and gateway allows
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def text(place: Place) -> str:
    """Text that was meant as text."""
    if isinstance(place.value, str) and place.value:
        return place.value
    if isinstance(place.value, bool | int | float):
        raise place.expected(f'text, so in quotes: "{place.document.written[place.trail]}"')
    raise place.expected("text")


def word(place: Place) -> str:
    """A scalar as text, just as it is written: `99` and `0.70` need no quotes here."""
    if isinstance(place.value, bool | int | float):
        return place.document.written[place.trail]
    if isinstance(place.value, str) and "\0" not in place.value:
        return place.value
    raise place.expected("text or a number")


def label(place: Place) -> str:
    """The value of a label."""
    value = word(place)
    if not value.isprintable() or len(value) > _LABEL_VALUE:
        raise place.expected(f"at most {_LABEL_VALUE} printable characters")
    return value


def boolean(place: Place) -> bool:
    """True or false; the words of either that came out of `${…}` are one too."""
    answers = {True: True, False: False, "true": True, "false": False}
    if isinstance(place.value, bool | str) and place.value in answers:
        return answers[place.value]
    raise place.expected("true or false")


def whole(least: int, most: int) -> Reader[int]:
    """A reader of a whole number; digits that came out of `${…}` are one too."""

    def read_whole(place: Place) -> int:
        value = place.value
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise place.expected(f"a whole number from {least} to {most}")
        return value

    return read_whole


def duration(place: Place) -> float:
    """Seconds, of `30s`, `5m`, `1h30m`, `500ms`; `0` needs no unit."""
    if place.value in (0, "0") and not isinstance(place.value, bool):
        return 0.0
    if not isinstance(place.value, str) or not _DURATION.fullmatch(place.value):
        raise place.wrong(f"{place.shown} is not a duration (examples: 30s, 5m, 1h30m)")
    parts = _DURATION_PART.findall(place.value)
    seconds: float = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > LONGEST:
        raise place.wrong(f"{place.shown} is longer than a year (365d)")
    return seconds


def some_time(place: Place) -> float:
    """A duration that is longer than nothing."""
    seconds = duration(place)
    if seconds <= 0:
        raise place.wrong("must be longer than 0s")
    return seconds


def size(place: Place) -> int:
    """A number of tokens or bytes, of `65536`, `64k`, `1GiB`; k is 1024."""
    found = _SIZE.fullmatch(str(place.value)) if isinstance(place.value, int | str) else None
    number = int(found[1]) * _FACTORS[(found[2] or "").lower()] if found else LARGEST + 1
    if number > LARGEST:
        raise place.wrong(f"{place.shown} is not a size (examples: 8192, 64k, 1GiB)")
    return number


def one_of(choices: type[E]) -> Reader[E]:
    """A reader of one of the values of an enumeration."""
    known = [str(choice.value) for choice in choices]

    def read_choice(place: Place) -> E:
        if place.value not in known:
            guess = did_you_mean(str(place.value), known)
            raise place.wrong(f"{place.shown} is not one of the choices{guess}")
        return choices(place.value)

    return read_choice


def role_name(place: Place) -> str:
    """A role's name, fit for URLs and headers."""
    name = text(place)
    if not is_role_name(name):
        raise place.wrong(f"{place.shown} is not a role's name: {ROLE_RULE}")
    return name


ROLE_RULE = "use a-z, 0-9, dot, hyphen and underscore, at most 64"


def is_role_name(name: str) -> bool:
    """Whether a text may be a role's name."""
    return _ROLE.fullmatch(name) is not None


def plain_name(place: Place) -> str:
    """The name of a node or of a backend."""
    name = text(place)
    if not _NAME.fullmatch(name):
        rule = "use letters, digits, dot, hyphen and underscore, at most 64"
        raise place.wrong(f"{place.shown} cannot be a name: {rule}")
    return name


def model_name(place: Place) -> str:
    """The short name of a model, as it is known to nodes or to an external server."""
    name = text(place)
    if not _MODEL.fullmatch(name):
        rule = "use letters, digits and . _ : / + -, at most 128"
        raise place.wrong(f"{place.shown} is not a model's name: {rule}")
    return name


def variable(place: Place) -> str:
    """The name of an environment variable."""
    name = text(place)
    if not is_variable(name):
        raise place.wrong("must be the name of an environment variable")
    return name


def is_variable(name: str) -> bool:
    """Whether a text may be the name of an environment variable."""
    return _VARIABLE.fullmatch(name) is not None
