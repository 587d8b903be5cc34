"""Whether a backend gets on with its work, which neither `/health` nor a silent socket tells.

A long prompt on a slow machine is silent for minutes and well; a wedged GPU is silent, too, while
its server still says that it is healthy. llama-server's `/slots` shows the difference, and while it
computes a batch and answers nothing, its node sees the processor work.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from attrs import define
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.core.attempts import Outcome
from rolemesh.core.health import Sign
from rolemesh.core.model import Backend, BackendId
from rolemesh.gateway.entries import Entry
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import never, receive
from rolemesh.gateway.upstream import TryFailed, Upstream

LOOK_EVERY = 5.0
SILENCE = 15.0  # seconds without an event before a backend is asked for its slots
ANSWER_WITHIN = 60.0  # a batch that is being computed lets nobody in between
STUCK_AFTER = 120.0
LONGEST_SLOTS = 1 << 20

T = TypeVar("T")


class _Slot(msgspec.Struct):
    """The part of a slot that changes while it works."""

    is_processing: bool = False
    id_task: int = -1
    n_prompt_tokens_processed: int = 0
    next_token: list[dict[str, Any]] | dict[str, Any] = []

    def mark(self) -> object:
        if not self.is_processing:
            return None
        return self.id_task, self.n_prompt_tokens_processed, repr(self.next_token)


@define(eq=False)
class _Watch:
    """One request that waits for its first byte."""

    id: BackendId
    seconds: float
    began: float
    waiting: Deferred[Any]
    heard: Callable[[], float]
    timer: IDelayedCall | None = None
    end: Outcome | None = None

    def give_up(self, end: Outcome) -> None:
        self.end = end
        self.waiting.cancel()


class Progress(Service):
    """Watches the backends that have requests under way.

    `events_at` tells of each answer of a backend that is being relayed when its last event came.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        registry: Registry,
        upstream: Upstream,
        events_at: Callable[[BackendId], Sequence[float]],
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._upstream = upstream
        self._events_at = events_at
        self._marks: dict[BackendId, tuple[object, ...]] = {}
        self._moved: dict[BackendId, float] = {}
        self._told: dict[BackendId, float] = {}
        self._asking: dict[BackendId, Deferred[None]] = {}
        self._watches: set[_Watch] = set()
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock
        registry.on_gone.append(self._gone)
        registry.on_down.append(self._move_away)

    def startService(self) -> None:
        super().startService()
        self._loop.start(LOOK_EVERY, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()
        for asking in tuple(self._asking.values()):
            asking.cancel()

    def bounded(
        self, waiting: "Deferred[T]", id: BackendId, seconds: float, heard: Callable[[], float]
    ) -> "Deferred[T]":
        """`waiting`, which fails with TryFailed once its backend has made no progress for so long,
        or has been found to make none with anything. `heard` is when it last told of this one."""
        watch = _Watch(id, seconds, self._clock.seconds(), waiting, heard)
        watch.timer = self._clock.callLater(max(0.0, seconds), self._due, watch)
        self._watches.add(watch)

        def over(result: Any) -> Any:
            self._watches.discard(watch)
            if watch.timer is not None and watch.timer.active():
                watch.timer.cancel()
            if watch.end is not None and isinstance(result, Failure):
                result.trap(CancelledError)
                raise TryFailed(watch.end)
            return result

        return waiting.addBoth(over)

    def seen(self, id: BackendId) -> float:
        """When a backend was last seen to get on by other means than an event of an answer."""
        return max(self._told.get(id, 0.0), self._moved.get(id, 0.0), self._worked(id))

    def _worked(self, id: BackendId) -> float:
        """When its machine last saw it work: while a long batch is computed nothing else does."""
        entry = self._registry.get(id)
        report = entry.report if entry is not None and entry.leased else None
        if entry is None or report is None or report.still is None:
            return 0.0
        return entry.heard - report.still

    def note(self, id: BackendId) -> None:
        """A backend has told by itself that it gets on with a request."""
        self._told[id] = self._clock.seconds()

    def _due(self, watch: _Watch) -> None:
        moved = max(watch.heard(), self._moved.get(watch.id, watch.began), self._worked(watch.id))
        left = watch.seconds - (self._clock.seconds() - moved)
        if left > 0:
            watch.timer = self._clock.callLater(left, self._due, watch)
        else:
            watch.give_up(Outcome.FIRST_BYTE_TIMEOUT)

    def _look(self) -> None:
        now = self._clock.seconds()
        for entry in self._registry:
            if entry.in_flight and entry.runs and entry.backend.llama_server:
                self._judge(entry, now)
            else:
                self._forget(entry.backend.id)

    def _judge(self, entry: Entry, now: float) -> None:
        id = entry.backend.id
        moved, events = self.seen(id), self._events_at(id)
        longest_silent = now - max(moved, min(events, default=entry.busy_since))
        if longest_silent >= SILENCE and id not in self._asking:
            self._asking[id] = Deferred.fromCoroutine(self._ask(entry.backend))
        if now - max(moved, entry.busy_since, *events) >= STUCK_AFTER:
            self._stuck(id)

    def _stuck(self, id: BackendId) -> None:
        self.log.warn(
            "{backend} makes no progress and is left alone",
            backend=str(id),
            **{"rolemesh.node": id.node, "rolemesh.backend": id.backend},
        )
        self._registry.sign(id, Sign.STUCK)
        self._move_away(id)

    def _move_away(self, id: BackendId) -> None:
        """Let the requests that a backend has not begun to answer go elsewhere."""
        for watch in [watch for watch in self._watches if watch.id == id]:
            watch.give_up(Outcome.WEDGED)

    async def _ask(self, backend: Backend) -> None:
        asking = Deferred.fromCoroutine(self._slots(backend))
        try:
            marks = await asking.addTimeout(ANSWER_WITHIN, self._clock)
        except Exception:
            return  # no answer is no progress
        finally:
            self._asking.pop(backend.id, None)
        if marks != self._marks.get(backend.id) and any(marks):
            if backend.id in self._marks:
                self._moved[backend.id] = self._clock.seconds()
            self._marks[backend.id] = marks

    async def _slots(self, backend: Backend) -> tuple[object, ...]:
        response = await self._upstream.send(backend, "GET", "/slots", None, {}, SILENCE)
        body = await receive(response, self._clock, never, LONGEST_SLOTS).begun
        if response.code != 200:
            return ()
        return tuple(slot.mark() for slot in msgspec.json.decode(body, type=list[_Slot]))

    def _forget(self, id: BackendId) -> None:
        self._marks.pop(id, None)
        self._moved.pop(id, None)
        self._told.pop(id, None)

    def _gone(self, id: BackendId) -> None:
        self._forget(id)
        asking = self._asking.pop(id, None)
        if asking is not None:
            asking.cancel()
