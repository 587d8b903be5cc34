"""Active checks of every backend, and the clock that ends ejections."""

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rolemesh.core.attempts import Outcome
from rolemesh.core.health import Condition, Sign
from rolemesh.core.model import Backend, BackendId
from rolemesh.gateway.entries import Entry, Props
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import never, receive
from rolemesh.gateway.upstream import TryFailed, Upstream

TICK = 1.0
MOST_LINES = 6  # in a minute of one backend, so that one which comes and goes fills no log
LONGEST_ANSWER = 1 << 20

# A server that was away may have come back with other settings.
_MAY_BE_ANOTHER = (Condition.UNKNOWN, Condition.LOADING, Condition.DOWN)


class _Props(msgspec.Struct):
    """The part of llama-server's `/props` that matters here."""

    total_slots: int | None = None
    build_info: str = ""
    model_alias: str | None = None
    default_generation_settings: dict[str, Any] = {}
    chat_template_caps: dict[str, bool] | None = None


class Checks(Service):
    """Asks each backend of a registry whether it is well, sooner where it was not; not while its
    node has no server there, as its key would go to whoever else has that port now.

    `interval` is between two checks of a backend that is well, `fast` of one that is not or whose
    last check failed, `timeout` for one answer, all in seconds; `jitter` spreads them.
    """

    log = Logger()
    interval, fast, timeout = 2.0, 0.5, 2.0

    def __init__(
        self,
        clock: IReactorTime,
        registry: Registry,
        upstream: Upstream,
        jitter: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._registry = registry
        self._upstream = upstream
        self._jitter = jitter
        self._next: dict[BackendId, IDelayedCall] = {}
        self._running: dict[BackendId, Deferred[None]] = {}
        self._known: set[BackendId] = set()
        self._told: dict[BackendId, deque[float]] = {}
        self._loop = LoopingCall(registry.tick)
        self._loop.clock = clock
        registry.on_backend.append(self._added)
        registry.on_gone.append(self._left)
        registry.on_condition.append(self._tell)

    def startService(self) -> None:
        super().startService()
        self._loop.start(TICK)
        for entry in self._registry:
            self._check(entry.backend.id)

    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()
        for id in {*self._next, *self._running}:
            self._rest(id)

    def _added(self, entry: Entry) -> None:
        self._rest(entry.backend.id)
        if self.running:
            self._check(entry.backend.id)

    def _left(self, id: BackendId) -> None:
        self._told.pop(id, None)
        self._rest(id)

    def _rest(self, id: BackendId) -> None:
        self._known.discard(id)
        timer = self._next.pop(id, None)
        if timer is not None and timer.active():
            timer.cancel()
        running = self._running.pop(id, None)
        if running is not None:
            running.cancel()

    def _check(self, id: BackendId) -> None:
        self._next.pop(id, None)
        entry = self._registry.get(id)
        if entry is not None and entry.runs:
            self._running[id] = Deferred.fromCoroutine(self._one(id))

    async def _one(self, id: BackendId) -> None:
        entry = self._registry.get(id)
        if entry is None:
            return
        try:
            sign = await self._ask(entry)
        except CancelledError:
            return
        except Exception:
            self.log.failure("the check of {backend} failed", backend=str(id))
            sign = Sign.CHECK_FAILED
        self._running.pop(id, None)
        if entry.runs:
            self._registry.sign(id, sign)
        if self.running and self._registry.get(id) is entry:
            self._next[id] = self._clock.callLater(self._pause(entry), self._check, id)

    def _tell(self, id: BackendId) -> None:
        entry, left = self._registry.get(id), self._lines_left(id)
        if entry is not None and left:
            self.log.info(
                "{backend} is {condition}{more}",
                backend=str(id),
                condition=str(entry.health),
                more="" if left > 1 else ", and changes so often that it is not told for a while",
                **{"rolemesh.node": id.node, "rolemesh.backend": id.backend},
            )

    def _lines_left(self, id: BackendId) -> int:
        """How many lines a backend's changes may take now, this one included."""
        now = self._clock.seconds()
        told = self._told.setdefault(id, deque(maxlen=MOST_LINES))
        lately = sum(now - each < 60.0 for each in told)
        if lately < MOST_LINES:
            told.append(now)
        return MOST_LINES - lately

    def _pause(self, entry: Entry) -> float:
        health = entry.health
        well = health.condition is Condition.UP and health.sign is not Sign.CHECK_FAILED
        return (self.interval if well else self.fast) * (0.9 + 0.2 * self._jitter())

    async def _ask(self, entry: Entry) -> Sign:
        backend = entry.backend
        try:
            status, _ = await self._get(backend, "/health")
            if status == 404:  # no llama-server; what every OpenAI server has will do
                status, _ = await self._get(backend, "/v1/models")
        except TryFailed:
            return Sign.CHECK_FAILED
        if status == 503:
            return Sign.CHECK_LOADING
        if status != 200:
            return Sign.CHECK_FAILED
        if backend.id not in self._known or entry.health.condition in _MAY_BE_ANOTHER:
            await self._read_props(backend)
        return Sign.CHECK_OK

    async def _read_props(self, backend: Backend) -> None:
        """What the server says of itself; other servers than llama.cpp say nothing."""
        try:
            status, body = await self._get(backend, "/props")
            if status == 503:
                return
            self._known.add(backend.id)
            props = msgspec.json.decode(body, type=_Props) if status == 200 else None
        except (TryFailed, msgspec.DecodeError):
            return
        if props is None or props.total_slots is None:
            return
        context = props.default_generation_settings.get("n_ctx")
        said = Props(
            slots=props.total_slots if props.total_slots > 0 else None,
            context=context if isinstance(context, int) and context > 0 else 0,
            build=props.build_info[:256],
            alias=props.model_alias,
            tools=(props.chat_template_caps or {}).get("supports_tools"),
        )
        self._registry.read(backend.id, said)

    async def _get(self, backend: Backend, path: str) -> tuple[int, bytes]:
        asking = Deferred.fromCoroutine(self._exchange(backend, path))
        try:
            return await asking.addTimeout(self.timeout, self._clock)
        except TimeoutError:
            raise TryFailed(Outcome.FIRST_BYTE_TIMEOUT) from None

    async def _exchange(self, backend: Backend, path: str) -> tuple[int, bytes]:
        response = await self._upstream.send(backend, "GET", path, None, {}, self.timeout)
        body = receive(response, self._clock, never, LONGEST_ANSWER)
        return response.code, await body.begun
