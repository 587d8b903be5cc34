"""What an operator may ask of a node, what the node answers, and the rules for both."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from rolemesh.core.report import Line, Name

MOST_LINES = 200  # of a log at once, which is what a node remembers
LONGEST_DRAIN = 365 * 86400.0  # seconds
LONGEST_COMMAND = 4 * 1024  # bytes of one command on its way
LONGEST_RESULT = 64 * 1024  # bytes of one result
LINE_CUT = 1000  # characters of a log's line
LINES_ROOM = 48 * 1024  # bytes of lines in one result
REMEMBERED = 256  # commands that a node knows it has done

Seconds = Annotated[float, Meta(gt=0, le=LONGEST_DRAIN)]
Reason = Annotated[str, Meta(max_length=160)]
Message = Annotated[str, Meta(max_length=1024)]
LogMark = Annotated[str, Meta(max_length=64)]

T = TypeVar("T")


class Kind(StrEnum):
    """An operator's verb."""

    RESTART = "restart"
    DRAIN = "drain"
    RESUME = "resume"
    LOGS = "logs"


class Command(Struct, frozen=True, omit_defaults=True):
    """One order. It names what the node's own file names, and nothing in it is ever executed.

    `backend` None means the whole node; `for_s` ends a drain; `lines`, `follow` and `after` are of
    logs: where `after` is a mark of an earlier result, what came behind it is wanted.
    """

    id: Name
    kind: Kind
    backend: Name | None = None
    reason: Reason = ""
    for_s: Seconds | None = None
    lines: Annotated[int, Meta(ge=0, le=MOST_LINES)] = MOST_LINES
    follow: bool = False
    after: LogMark = ""


class Result(Struct, frozen=True, omit_defaults=True):
    """What came of a command, or one part of it: while there is `more`, parts follow in order.

    `at` marks how far the log was that `lines` are of; what it says is its node's own affair.
    """

    done: bool
    message: Message = ""
    part: Annotated[int, Meta(ge=0)] = 0
    lines: Annotated[tuple[Line, ...], Meta(max_length=MOST_LINES + 1)] = ()
    more: bool = False
    at: LogMark = ""


class Taken(Struct, frozen=True):
    """The gateway's answer to a result: whether anybody waits for more of it."""

    more: bool


class Drained(Struct, frozen=True, omit_defaults=True):
    """Why something takes no new requests, and the Unix time at which it does again."""

    reason: str = ""
    until: float | None = None

    def over(self, now: float) -> bool:
        return self.until is not None and self.until <= now

    def __str__(self) -> str:
        until = "" if self.until is None else f"until {_shown(self.until)}"
        return ", ".join(filter(None, (self.reason, until)))


def _shown(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M UTC}"


def draining(
    drained: Mapping[str | None, Drained], backend: str | None, now: float
) -> Drained | None:
    """What keeps a backend, or with None the node, from new requests; the node's word is first."""
    for name in (None, backend):
        found = drained.get(name)
        if found is not None and not found.over(now):
            return found
    return None


def fitting(lines: Sequence[str], missed: int = 0) -> tuple[str, ...]:
    """The latest of a log's lines that one result can carry; before them stands how many were left
    out, with those `missed` before."""
    room, kept = LINES_ROOM, list[str]()
    for line in reversed(lines[-MOST_LINES:]):
        cut = line[:LINE_CUT]
        room -= len(msgspec.json.encode(cut)) + 1
        if room < 0:
            break
        kept.append(cut)
    missed += len(lines) - len(kept)
    if missed:
        kept.append(f"… {missed} lines left out")
    return tuple(reversed(kept))


def is_fresh(part: int, last: int) -> bool:
    """Whether a part follows the last one heard; a node that begins anew begins with 0."""
    return part > last or (part == 0 and last > 0)


class Ledger:
    """The commands that were begun here, so that one which comes again is not done again."""

    def __init__(self) -> None:
        self._results: OrderedDict[str, Result | None] = OrderedDict()

    def begin(self, id: str) -> bool:
        """Whether it is new; then it counts as begun."""
        if id in self._results:
            return False
        self._results[id] = None
        if len(self._results) > REMEMBERED:
            self._results.popitem(last=False)
        return True

    def finish(self, id: str, result: Result) -> None:
        """It is done."""
        if id in self._results:
            self._results[id] = result

    def forget(self, id: str) -> None:
        """It may be done again."""
        self._results.pop(id, None)

    def result(self, id: str) -> Result | None:
        """What came of it; None while it is under way, and for one that was never begun."""
        return self._results.get(id)


_command = msgspec.json.Decoder(Command)
_result = msgspec.json.Decoder(Result)
_taken = msgspec.json.Decoder(Taken)


def read_command(data: bytes) -> Command:
    """Read what a gateway wants.

    :raises msgspec.MsgspecError: when it is no command that this version knows.
    """
    if len(data) > LONGEST_COMMAND:
        raise msgspec.ValidationError(f"longer than {LONGEST_COMMAND} bytes")
    return _read(_command, data)


def read_result(body: bytes) -> Result:
    """Read what a node answers; raises as `read_command`."""
    return _read(_result, body)


def read_taken(body: bytes) -> Taken:
    """Read how a gateway took a result; raises as `read_command`."""
    return _read(_taken, body)


def _read(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    try:
        return decoder.decode(data)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None
