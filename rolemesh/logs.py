"""JSON lines on standard output: what `twistd --logger rolemesh.logs.json_lines` logs with."""

import atexit
import json
import math
import os
import select
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent
from twisted.python.failure import Failure
from twisted.python.reflect import fullyQualifiedName
from zope.interface import implementer

from rolemesh.core.redaction import redacted
from rolemesh.ownfile import OwnFile

MAX_LINES = 10_000
MAX_TEXT = 8192  # characters of one value; the rest is cut
PATIENCE = 0.5  # seconds that a process which ends gives its reader
_BATCH = 64
_NAP = 0.02  # seconds in which lines gather; to wake the writer for each would cost more than it
_NOISE = ("Starting factory {factory!r}", "Stopping factory {factory!r}")  # for each connection


def json_lines() -> "JsonLines":
    """The observer of a whole process; it keeps the standard output that it finds."""
    return _for_the_process(JsonLines(_standard_output()))


def json_file() -> "JsonLines":
    """The same where standard output is a file of ours, which is then looked after."""
    descriptor = _standard_output()
    return _for_the_process(JsonLines(descriptor, file=OwnFile.behind(descriptor)))


def _for_the_process(observer: "JsonLines") -> "JsonLines":
    os.register_at_fork(after_in_child=observer.forget)  # a daemon forks after its first lines
    atexit.register(observer.flush)
    return observer


def _standard_output() -> int:
    """A descriptor of our own: twistd replaces `sys.stdout`, and a daemon closes the first one."""
    try:
        return os.dup(1)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def json_line(event: LogEvent) -> bytes:
    """One event as one line of JSON: no secrets, no control characters, never an exception."""
    try:
        text = json.dumps(_fields(event), allow_nan=False)
    except Exception as error:
        fields = {"message": "an event could not be told", "error.type": type(error).__name__}
        text = json.dumps(fields)
    return text.replace("\x7f", "\\u007f").encode("ascii") + b"\n"


def _fields(event: LogEvent) -> dict[str, Any]:
    when = datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds")
    fields = {
        "@timestamp": when.replace("+00:00", "Z"),
        "log.level": event.get("log_level", LogLevel.info).name,
        "log.logger": event.get("log_namespace", ""),
        "message": formatEvent(event),
    }
    fields.update((key, value) for key, value in event.items() if "." in key)
    if (failure := event.get("log_failure")) is not None:
        fields.update(_error(failure))
    return {key: _plain(value) for key, value in fields.items()}


def _error(failure: Failure) -> dict[str, str]:
    return {
        "error.type": fullyQualifiedName(failure.type),
        "error.message": failure.getErrorMessage(),
        "error.stack_trace": failure.getTraceback(),
    }


def _plain(value: object) -> Any:
    """A value as JSON knows it, its texts cut and without secrets."""
    match value:
        case str():  # as most are; to tell a mapping takes longest
            return redacted(value[:MAX_TEXT])
        case None | bool() | int():
            return value
        case float() if math.isfinite(value):
            return value
        case Mapping():
            return {redacted(str(key)): _plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(item) for item in value]
        case _:
            return redacted(str(value)[:MAX_TEXT])


@implementer(ILogObserver)
class JsonLines:
    """Writes events to a descriptor, one JSON object a line, from a thread of its own.

    So a reader that is slow, or gone, never blocks who logs: beyond `max_lines` that wait, lines
    are dropped, counted in `dropped`, and confessed once there is room. An event with `log_last`
    is waited for, as `flush` does; before one with `log_reopen` the `file` is opened anew.
    """

    def __init__(
        self, descriptor: int, max_lines: int = MAX_LINES, file: OwnFile | None = None
    ) -> None:
        self._descriptor = descriptor
        self._file = file
        self._stale = False
        self._max_lines = max_lines
        self.forget()

    def forget(self) -> None:
        """Start empty and without a thread, as the child of a fork must: its parent has both."""
        self.dropped = 0
        self._confessed = 0
        self._lines: deque[bytes] = deque()
        self._under_way = 0
        self._changed = threading.Condition()
        self._writer: threading.Thread | None = None

    def __call__(self, event: LogEvent) -> None:
        if event.get("log_format") in _NOISE:
            return
        line = json_line(event)
        with self._changed:
            self._stale = self._stale or bool(event.get("log_reopen"))
            self._add(line)
            self._changed.notify_all()
        if event.get("log_last"):
            self.flush()

    def flush(self) -> bool:
        """Wait until all is written, at most `PATIENCE` seconds; whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._lines or self._under_way), PATIENCE)

    def _add(self, line: bytes) -> None:
        if self._writer is None:
            self._writer = threading.Thread(target=self._write, name="log", daemon=True)
            self._writer.start()
        if len(self._lines) < self._max_lines:
            self._lines.append(line)
        else:
            self.dropped += 1

    def _write(self) -> None:
        while True:
            lines = self._taken()
            if self._file is not None:
                self._tend(self._file)
            written = _write_all(self._descriptor, b"".join(lines))
            self._done(0 if written else len(lines))
            time.sleep(_NAP)

    def _tend(self, file: OwnFile) -> None:
        with self._changed:
            stale, self._stale = self._stale, False
        if stale:
            file.reopen()
        file.rotate_when_full()

    def _taken(self) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: self._lines)
            lines = [self._lines.popleft() for _ in range(min(_BATCH, len(self._lines)))]
            self._under_way = len(lines)
            missing, self._confessed = self.dropped - self._confessed, self.dropped
        return [_confession(missing), *lines] if missing else lines

    def _done(self, lost: int) -> None:
        with self._changed:
            self._under_way = 0
            self.dropped += lost
            self._changed.notify_all()


def _confession(lines: int) -> bytes:
    text = f"{lines} log lines were dropped, as nobody read them fast enough"
    return json_line(
        {
            "log_time": datetime.now(UTC).timestamp(),
            "log_level": LogLevel.warn,
            "log_namespace": __name__,
            "log_format": text,
            "rolemesh.log.dropped": lines,
        }
    )


def _write_all(descriptor: int, data: bytes) -> bool:
    """Write, waiting as long as it takes; False when nobody can ever read it."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # who shares the descriptor made it so
            select.select([], [descriptor], [])
        except OSError:
            return False
    return True
