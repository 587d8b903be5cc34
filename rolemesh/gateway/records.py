"""What became of each request: one log line, and the same to be asked for by its id."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.core.attempts import Try
from rolemesh.core.model import BackendId
from rolemesh.core.routing import Score
from rolemesh.core.usage import Usage

KEPT = 10_000


@define(eq=False)
class Record:
    """One request's story, without any of its text.

    Times are seconds, `status` is what was sent. `believed` are the prompt tokens that the backend
    was thought to have cached, `normal_rate` the tokens a second that it writes as a rule, `bill`
    the tokens that its key is charged with.
    """

    id: str
    path: str
    at: float
    began: float
    stream: bool = False
    asked: str | None = None
    role: str | None = None
    key: str | None = None
    backend: BackendId | None = None
    model: str | None = None
    route: str = ""
    scores: tuple[Score, ...] = ()
    believed: int = 0
    normal_rate: float | None = None
    queued: float = 0.0
    tries: list[Try] = field(factory=list)
    status: int = 0
    code: str = ""
    first_byte: float | None = None
    ended: float | None = None
    size: int = 0
    usage: Usage = field(factory=Usage)
    bill: Usage = field(factory=Usage)
    end: str = ""

    def as_json(self) -> dict[str, Any]:
        """The record as its owner may read it."""
        return {
            "id": self.id,
            "path": self.path,
            "at": self.at,
            "stream": self.stream,
            "role": self.role,
            "node": self.backend.node if self.backend else None,
            "backend": self.backend.backend if self.backend else None,
            "model": self.model,
            "route": self.route,
            "believed_cached": self.believed,
            "normal_rate": self.normal_rate,
            "candidates": [score_json(score) for score in self.scores],
            "attempts": [_try_json(each) for each in self.tries],
            "queue_ms": _ms(self.queued),
            "status": self.status or None,
            "code": self.code or None,
            "first_byte_ms": _ms(self.first_byte),
            "duration_ms": _ms(self.ended),
            "bytes": self.size,
            "usage": _usage_json(self.usage),
            "end": self.end or "under way",
        }

    def fields(self) -> dict[str, Any]:
        """The record as fields of a log line."""
        usage = self.usage
        found = {
            "http.request.id": self.id,
            "http.request.method": "POST",
            "url.path": self.path,
            "http.response.status_code": self.status,
            "http.response.body.bytes": self.size,
            "event.duration": int((self.ended or 0.0) * 1e9),
            "user.id": self.key,
            "error.code": self.code or None,
            "gen_ai.request.model": self.asked,
            "gen_ai.response.model": self.model,
            "gen_ai.usage.input_tokens": usage.prompt,
            "gen_ai.usage.output_tokens": usage.completion,
            "gen_ai.usage.cache_read.input_tokens": usage.cached,
            "rolemesh.role": self.role,
            "rolemesh.node": self.backend.node if self.backend else None,
            "rolemesh.backend": self.backend.backend if self.backend else None,
            "rolemesh.route": self.route or None,
            "rolemesh.queue_ms": _ms(self.queued),
            "rolemesh.ttfb_ms": _ms(self.first_byte),
            "rolemesh.attempts": [_try_json(each) for each in self.tries] or None,
            "rolemesh.end": self.end,
        }
        return {name: value for name, value in found.items() if value is not None}


def score_json(score: Score) -> dict[str, Any]:
    """A candidate of a decision as JSON tells it."""
    if score.refusal:
        return {"backend": str(score.id), "refused": score.refusal}
    return {"backend": str(score.id), "seconds": round(score.seconds or 0.0, 4)}


def _try_json(each: Try) -> dict[str, Any]:
    return {"backend": str(each.id), "outcome": each.outcome.value, "ms": _ms(each.seconds)}


def _usage_json(usage: Usage) -> dict[str, Any]:
    found: dict[str, float | None] = {
        "prompt": usage.prompt,
        "completion": usage.completion,
        "cached": usage.cached,
    }
    if usage.timings is not None:
        found["prompt_ms"] = usage.timings.prompt_ms
        found["predicted_ms"] = usage.timings.predicted_ms
    return found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


class Records:
    """The latest requests by id and by the key that sent them, as clients choose ids. `wall` tells
    the time of day, `clock` measures."""

    log = Logger()

    def __init__(self, clock: IReactorTime, wall: Callable[[], float]) -> None:
        self._clock = clock
        self._wall = wall
        self._kept: OrderedDict[tuple[str | None, str], Record] = OrderedDict()

    def open(self, id: str, path: str, key: str | None = None) -> Record:
        """Begin a request's record."""
        record = Record(id, path, self._wall(), self._clock.seconds(), key=key)
        self._kept[key, id] = record
        self._kept.move_to_end((key, id))
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return record

    def get(self, id: str, key: str | None = None) -> Record | None:
        return self._kept.get((key, id))

    def last(self, key: str | None) -> Record | None:
        """The latest request that is over, of one key; None for any key where there are none."""
        mine = (each for each in reversed(self._kept.values()) if key is None or each.key == key)
        return next((each for each in mine if each.ended is not None), None)

    def answering(self, record: Record) -> None:
        """The first byte of an answer is there."""
        record.first_byte = self._clock.seconds() - record.began

    def close(self, record: Record) -> None:
        """End a record, and write it to the log."""
        record.ended = self._clock.seconds() - record.began
        self.log.info(
            "{role} {status} {end}",
            role=record.role or record.path,
            status=record.status,
            end=record.end,
            **record.fields(),
        )
