"""How a llama-server ended, why, and how long to wait before the next try."""

import re
import signal as signals
from collections.abc import Iterable, Sequence
from enum import StrEnum

from attrs import frozen


class Reason(StrEnum):
    """Why a llama-server ended, or could not begin."""

    BAD_ARGUMENT = "bad_argument"
    MODEL_MISSING = "model_missing"
    MODEL_BROKEN = "model_broken"
    PORT_IN_USE = "port_in_use"
    GPU_MEMORY = "gpu_memory"
    GPU_MISSING = "gpu_missing"
    HOST_MEMORY = "host_memory"
    GPU_LOST = "gpu_lost"
    EXEC_FAILED = "exec_failed"
    HUNG = "hung"
    WEDGED = "wedged"
    UNKILLABLE = "unkillable"
    ORDERED = "ordered"
    SIGNAL = "signal"
    UNKNOWN = "unknown"


@frozen
class Ending:
    """One end of a process. `detail` names no path; `uptime` is in seconds."""

    reason: Reason
    detail: str
    lines: tuple[str, ...] = ()
    uptime: float = 0.0

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"


_PATH = re.compile(r"(?<![\w./…])/(?:[^\s/:'\"]+/)+([^\s/:'\"]*)")
_NUMBER = r"(?:0|[1-9]\d{0,2})"  # a timestamp of llama.cpp has leading zeros
_ADDRESS = re.compile(rf"(?<![\w.]){_NUMBER}(?:\.{_NUMBER}){{3}}(?![\w.])(?::\d+)?")

NOT_RUN = "rolemesh launcher: cannot run: "  # its last words, followed by an errno's name

# What llama-server says before it gives up; the first row that fits names the cause, so causes
# stand before their consequences ("unable to allocate" is followed by "error loading model").
_LAST_WORDS: tuple[tuple[Reason, tuple[str, ...]], ...] = (
    (
        Reason.BAD_ARGUMENT,
        (
            "error: invalid argument:",
            "error while handling argument",
            "error: unrecognized arguments:",
            "error: argument ",
        ),
    ),
    (
        Reason.PORT_IN_USE,
        ("couldn't bind http server socket", "exiting due to http server error"),
    ),
    (
        Reason.GPU_MEMORY,
        (
            "cudamalloc failed: out of memory",
            "cuda error: out of memory",
            "unable to allocate cuda",
            "failed to allocate cuda",
            "erroroutofdevicememory",
            "hipmalloc failed: out of memory",
        ),
    ),
    (
        Reason.HOST_MEMORY,
        ("std::bad_alloc", "cannot allocate memory", "unable to allocate cpu"),
    ),
    (Reason.MODEL_MISSING, ("(no such file or directory)", "model file not found")),
    (
        Reason.MODEL_BROKEN,
        (
            "invalid magic characters",
            "failed to read magic",
            "model is corrupted or incomplete",
            "error loading model",
            "exiting due to model loading error",
        ),
    ),
)

_SPOKEN = dict(_LAST_WORDS)
_ABORTING = frozenset({Reason.GPU_MEMORY, Reason.HOST_MEMORY})  # they end in SIGABRT


def classify(
    code: int | None,
    signal: int | None,
    lines: Sequence[str],
    *,
    out_of_memory: bool = False,
    uptime: float = 0.0,
) -> Ending:
    """What ended a process, from its exit code or signal and its last lines.

    `out_of_memory`: the kernel killed something of ours for want of memory meanwhile.
    """
    reason, detail = _cause(code, signal, lines, out_of_memory)
    return Ending(reason, detail, tuple(lines), uptime)


def _cause(
    code: int | None, signal: int | None, lines: Sequence[str], out_of_memory: bool
) -> tuple[Reason, str]:
    if signal is not None:
        return _cause_of_signal(signal, lines, out_of_memory)
    for line in reversed(lines):
        if line.startswith(NOT_RUN):
            return Reason.EXEC_FAILED, line.removeprefix(NOT_RUN)
    how = "it ended, and how is known only to the agent that started it"
    return _spoken_cause(lines), how if code is None else f"exit code {code}"


def _cause_of_signal(signal: int, lines: Sequence[str], out_of_memory: bool) -> tuple[Reason, str]:
    if signal == signals.SIGKILL and out_of_memory:
        return Reason.HOST_MEMORY, f"killed:{signal} by the kernel, out of memory"
    spoken = _spoken_cause(lines)
    reason = spoken if spoken in _ABORTING else Reason.SIGNAL
    return reason, f"killed:{signal} {_signal_name(signal)}"


def said(ending: Ending) -> str:
    """The line that tells the cause, the last one where none does; empty where lines say nothing
    of it."""
    if ending.reason is Reason.UNKNOWN:
        return ending.lines[-1] if ending.lines else ""
    words = _SPOKEN.get(ending.reason, ())
    return next((line for line in ending.lines if _speaks(line, words)), "")


def _speaks(line: str, words: Iterable[str]) -> bool:
    return any(word in line.lower() for word in words)


def without_places(line: str) -> str:
    """A line that tells neither where files are, but for their names, nor where machines are."""
    return _ADDRESS.sub("***", _PATH.sub(r"…/\1", line))


def _spoken_cause(lines: Sequence[str]) -> Reason:
    said = "\n".join(lines).lower()
    for reason, words in _LAST_WORDS:
        if any(word in said for word in words):
            return reason
    return Reason.UNKNOWN


def _signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return "unnamed signal"


QUICK = 2.0  # seconds; whoever ends sooner has not begun
HOPELESS = 3  # quick exits for one reason in a row
OUT_OF_MEMORY_PAUSE = 10.0  # seconds
REMEMBERED = 16  # endings; doubling from 1 ms passes a minute before that
LOOP_WINDOW = 300.0  # seconds
LOOP_ENDINGS = 5  # in the window; one more is a crash loop
LOOP_PAUSE = 60.0  # seconds at least; with the above, never more than 12 starts in a window
SPREAD = 0.1  # of a pause, so that a whole rack does not start in step


def backoff(failures: int, first: float, longest: float, jitter: float) -> float:
    """Seconds to wait after so many failures in a row (at least one); `jitter` is from 0 to 1."""
    doubled = first * 2.0 ** min(failures - 1, REMEMBERED)
    return min(longest, doubled) * (1.0 + SPREAD * jitter)


def pause(endings: Sequence[Ending], first: float, longest: float, jitter: float) -> float:
    """Seconds to wait after these endings, the latest last, all since it was last steady."""
    if _hopeless(endings):
        return backoff(1, longest, longest, jitter)
    wait = backoff(len(endings), first, longest, jitter)
    if endings[-1].reason is Reason.HOST_MEMORY:
        return max(wait, min(longest, OUT_OF_MEMORY_PAUSE))
    return wait


def looping(ends: Sequence[float], now: float) -> bool:
    """Whether processes that ended at these times, in seconds, ended too often of late."""
    return sum(now - end < LOOP_WINDOW for end in ends) > LOOP_ENDINGS


def _hopeless(endings: Sequence[Ending]) -> bool:
    latest = endings[-HOPELESS:]
    if latest[-1].reason is Reason.EXEC_FAILED:
        return True
    alike = len({(ending.reason, ending.detail) for ending in latest}) == 1
    return len(latest) == HOPELESS and alike and all(e.uptime < QUICK for e in latest)
