"""What is wrong with a configuration, where, and what the writer may have meant."""

import difflib
from collections.abc import Iterable, Sequence
from types import TracebackType

from attrs import frozen


@frozen(order=True)
class Position:
    """A place in a file; both count from 1."""

    line: int = 1
    column: int = 1


@frozen(order=True)
class Problem:
    """One thing that a file says wrongly."""

    file: str
    position: Position
    text: str

    def __str__(self) -> str:
        return printable(f"{self.file}:{self.position.line}:{self.position.column}: {self.text}")


class ConfigError(Exception):
    """A configuration that cannot be used, with every problem once, in the order of the file.

    As text it is one line for each problem, fit to be shown as it is.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class Gather:
    """A context, to be entered many times, that keeps the problems of each pass.

    One mistake so never hides the next; `finish` raises them together.
    """

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self._problems = list(problems)
        self._failed = bool(self._problems)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, ConfigError):
            return False
        self._failed = True
        self._problems.extend(error.problems)
        return True

    def finish(self) -> None:
        """Raise what was gathered.

        :raises ConfigError: when any pass failed, even one whose problem was told elsewhere.
        """
        if self._failed:
            raise ConfigError(self._problems)


def printable(text: str) -> str:
    """A text on one line, without what could steer a terminal or fail to be written to it."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text
    )


def quoted(value: object) -> str:
    """A value as an error shows it: recognisable, and never long."""
    text = str(value)
    return f"'{text}'" if len(text) <= 60 else f"'{text[:57]}...'"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """The end of an error about an unknown name: the nearest of those there are, or all."""
    by_lower_case = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower()[:80], by_lower_case, 1)
    if close:
        return f" - did you mean '{by_lower_case[close[0]]}'?"
    return f" (there are: {', '.join(known)})" if known else ""
