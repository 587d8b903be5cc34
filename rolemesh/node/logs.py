"""A server's output as lines: cut, harmless, kept in a ring, forwarded within a limit."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from zlib import crc32

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

LONGEST_LINE = 8 * 1024  # bytes
KEPT_LINES = 200
KNOWN_BY = 8  # lines
LINES_PER_SECOND = 200

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


class LineCutter:
    """Bytes of one stream in, lines out; of a line no more than `longest` bytes is held."""

    def __init__(self, deliver: Callable[[list[bytes]], None], longest: int = LONGEST_LINE) -> None:
        self._deliver = deliver
        self._longest = longest
        self._rest = b""
        self._excess = 0

    def feed(self, data: bytes) -> None:
        """Take what was read; complete lines are delivered at once, together."""
        *ends, rest = data.split(b"\n")
        if ends:
            self._deliver([self._finish(ends[0]), *(self._cut(line) for line in ends[1:])])
        self._hold(rest)

    def flush(self) -> None:
        """Deliver what came without its newline."""
        if self._rest or self._excess:
            self._deliver([self._finish(b"")])

    def _finish(self, end: bytes) -> bytes:
        self._hold(end)
        line = self._rest + _excess_mark(self._excess)
        self._rest, self._excess = b"", 0
        return line

    def _hold(self, part: bytes) -> None:
        room = self._longest - len(self._rest)
        self._rest += part[:room]
        self._excess += max(0, len(part) - room)

    def _cut(self, line: bytes) -> bytes:
        excess = max(0, len(line) - self._longest)
        return line[: self._longest] + _excess_mark(excess)


def _excess_mark(count: int) -> bytes:
    return f"…+{count}".encode() if count else b""


def harmless(line: bytes, secrets: Sequence[str] = ()) -> str:
    """A line that can neither forge another one, nor paint a terminal, nor tell a secret."""
    text = line.decode("utf-8", "backslashreplace")
    text = _CONTROLS.sub("", _ESCAPES.sub("", text)).rstrip()
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


class Bucket:
    """A token bucket: `rate` a second, as many at once after a pause."""

    def __init__(self, clock: IReactorTime, rate: int) -> None:
        self._clock = clock
        self._rate = rate
        self._tokens = float(rate)
        self._filled = clock.seconds()

    def take(self, wanted: int) -> int:
        """How many of `wanted` may pass now."""
        now = self._clock.seconds()
        self._tokens = min(self._rate, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted


class ServerLog:
    """The lines of one server, over all its starts; `count` is how many there have been."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, backend: str) -> None:
        self._backend = backend
        self._secrets: tuple[str, ...] = ()
        self._ring: deque[bytes] = deque(maxlen=KEPT_LINES)
        self._bucket = Bucket(clock, LINES_PER_SECOND)
        self._dropped = 0
        self._life = f"{clock.seconds():.6f}"
        self._begun = 0
        self.count = 0

    def begin(self, secrets: Iterable[str]) -> None:
        """A new process writes: its lines alone are kept, and these words are never shown."""
        self._ring.clear()
        self._begun = self.count
        self._secrets = tuple(filter(None, secrets))

    def recall(self, lines: Iterable[bytes]) -> None:
        """What it wrote under an earlier agent, which has logged it."""
        self._ring.extend(lines)

    def cutter(self) -> LineCutter:
        """Where one stream of the process goes."""
        return LineCutter(self._take)

    def tail(self, count: int) -> list[str]:
        """The last lines, oldest first."""
        return self._shown(list(self._ring)[-count:])

    def mark(self) -> str:
        """Where it ends now, for `since`."""
        return f"{self._life}:{self.count}:{_sum(self._ring)}"

    def since(self, mark: str) -> tuple[list[str], int]:
        """The lines behind a mark, also behind one that an earlier agent made, as far as they are
        kept; and how many are not."""
        life, count, known = _read_mark(mark)
        if life == self._life and count <= self.count:
            fresh = self.count - count
            lines = self.tail(fresh) if fresh else []
            return lines, fresh - len(lines)
        return self._shown(list(self._ring)[self._recalled_until(known) :]), 0

    def _recalled_until(self, known: str) -> int:
        """Where, of the lines that an earlier agent has read, those end that a mark is behind."""
        ring = list(self._ring)
        recalled = max(0, len(ring) - (self.count - self._begun))
        return next((end for end in range(recalled, 0, -1) if _sum(ring[:end]) == known), 0)

    def _shown(self, lines: Iterable[bytes]) -> list[str]:
        return [harmless(line, self._secrets) for line in lines]

    def _take(self, lines: list[bytes]) -> None:
        self.count += len(lines)
        self._ring.extend(lines[-KEPT_LINES:])
        passing = self._bucket.take(len(lines))
        if passing and self._dropped:
            self._tell(f"dropped {self._dropped} lines")
            self._dropped = 0
        for line in lines[:passing]:
            self._tell(harmless(line, self._secrets))
        self._dropped += len(lines) - passing

    def _tell(self, line: str) -> None:
        self._log.info("{line}", line=line, **{"rolemesh.backend": self._backend})


def _sum(lines: Iterable[bytes]) -> str:
    """By which the last lines are known again, of whose process nobody remembers the count."""
    last = b"\n".join(list(lines)[-KNOWN_BY:])
    return f"{crc32(last):08x}"


def _read_mark(mark: str) -> tuple[str, int, str]:
    life, _, rest = mark.partition(":")
    count, _, known = rest.partition(":")
    return life, int(count) if count.isdecimal() and count.isascii() else 0, known
