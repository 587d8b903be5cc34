"""The Klein routes for clients: decode, await, encode. No decisions."""

from collections.abc import Hashable, Iterator
from hashlib import blake2b
from typing import Any

import msgspec
from attrs import define, field
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.threads import deferToThreadPool

from rolemesh.core.affinity import Memory
from rolemesh.core.chains import Chain, chain_of, session_of
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord, Scope
from rolemesh.core.model import BackendId, Role
from rolemesh.core.openai import Api, Ask, read
from rolemesh.core.rendezvous import lot_of
from rolemesh.core.roles import RoleBook, Wanted
from rolemesh.core.routing import Go, Need, No
from rolemesh.gateway.admission import Admission, Want
from rolemesh.gateway.attempt import Call
from rolemesh.gateway.delivery import Delivery
from rolemesh.gateway.dispatch import Dispatch
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.limits import KeyLimits
from rolemesh.gateway.membership import Standing
from rolemesh.gateway.records import Record, Records, score_json
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.usage import Ledger
from rolemesh.gateway.usage_view import usage_json
from rolemesh.gateway.warmth import KeepWarm

LONGEST_WAIT = 600.0
LONG_BODY = 2**20
_READ_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
_PASSED_ON = ("traceparent", "tracestate", "anthropic-version", "anthropic-beta")
_PATHS = "/v1/models, " + ", ".join(api.value for api in Api) + ", /health, /ready"


@define(eq=False)
class ClientApi:
    """What clients may ask of a gateway. `created` is the Unix time that models are dated with."""

    _clock: Any  # a reactor: its time, and its threads for long bodies
    _keys: Gatekeeper
    roles: RoleBook
    _registry: Registry
    _admission: Admission
    _dispatch: Dispatch
    _delivery: Delivery
    _records: Records
    _memory: Memory
    _created: int
    _keeper: Keeper
    _limits: KeyLimits
    _ledger: Ledger
    draining: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _idle: Deferred[None] | None = field(default=None, init=False)
    _under_way: set[Deferred[None]] = field(factory=set, init=False)

    app = Klein()
    answers_errors(app, _PATHS)

    @app.route("/", methods=["GET", "HEAD"])
    def home(self, request: EdgeRequest) -> bytes:
        return _json(request, {"name": "rolemesh", "models": "/v1/models", "ready": "/ready"})

    @app.route("/health", methods=["GET", "HEAD"])
    def health(self, request: EdgeRequest) -> bytes:
        return _json(request, {"status": "ok"})

    @app.route("/ready", methods=["GET", "HEAD"])
    def ready(self, request: EdgeRequest) -> bytes:
        roles = self._book(None).listed
        standings = {name: self._registry.standing(role) for name, role in roles.items()}
        anything = any(standing.ready for standing in standings.values())
        good = anything and not self.draining and self._keys.readable()
        request.setResponseCode(200 if good else 503)
        told: dict[str, Any] = {"status": self._status(good)}
        sees = self._keys.seen_by(request) if self._keys.readable() else None
        if sees is not None:
            told["roles"] = {name: _told(each) for name, each in standings.items() if sees(name)}
        return _json(request, told)

    def _status(self, good: bool) -> str:
        """In a word; degraded means that it serves, and would forget new nodes in a restart."""
        if not good:
            return "draining" if self.draining else "unavailable"
        return "degraded" if self._keeper.trouble else "ready"

    @app.route("/v1/models", methods=["GET", "HEAD"])
    def models(self, request: EdgeRequest) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        found = [
            self._model(name, role)
            for name, role in self._book(key).listed.items()
            if name in self.roles.listed or self._registry.seen(role)
        ]
        return _json(request, {"object": "list", "data": found})

    @app.route("/v1/models/<path:name>", methods=["GET", "HEAD"])
    def model(self, request: EdgeRequest, name: str) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        return _json(request, self._model(name, self._wanted(name, key).role))

    @app.route("/v1/requests/<id>", methods=["GET"])
    def request_record(self, request: EdgeRequest, id: str) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        own = key.id if key else None
        record = self._records.last(own) if id == "last" else None
        record = record or self._records.get(id, own)
        if record is None:
            raise Refusal("unknown_url", "No such request of this key is remembered.")
        return _json(request, record.as_json())

    @app.route("/v1/usage", methods=["GET"])
    def usage(self, request: EdgeRequest) -> bytes:
        return _json(request, usage_json(request, self._keys, self._ledger))

    @app.route("/v1/roles/<role>/explain", methods=["POST"])
    def explain(self, request: EdgeRequest, role: str) -> bytes:
        key = request.key or self._keys.client(request)
        ask = read(Api.CHAT, request.content.read() or b"{}")
        wanted = self._wanted(role, key)
        want = self._want(request, ask, wanted, key, self._chain(request, ask))
        decision = self._admission.decide(want)
        answer: dict[str, Any] = {
            "role": wanted.role.name,
            "policy": wanted.role.policy.value,
            "tokens": want.need.tokens,
            "candidates": [score_json(score) for score in decision.scores],
        }
        if isinstance(decision, Go):
            answer |= {"choice": str(decision.id), "route": decision.route}
        elif isinstance(decision, No):
            answer |= {"choice": None, "refusal": str(decision.refusal)}
        else:
            answer |= {"choice": None, "waits": decision.why}
        return _json(request, answer)

    async def relay(self, request: EdgeRequest, api: Api) -> None:
        """Answer one request of a client by a backend."""
        key = request.key or self._keys.client(request)
        record = self._records.open(request.request_id, api.value, key.id if key else None)
        working = Deferred.fromCoroutine(self._answer(request, api, record, key))
        self._under_way.add(working)
        try:
            await self._unless_stopped(working, record)
        except CancelledError:
            record.end = record.end or f"the client went away {_phase(record)}"
            record.status = 499
            raise
        except Refusal as refusal:
            record.status, record.code, record.end = refusal.status, refusal.code, "refused"
            raise
        except Exception:
            record.status, record.code, record.end = 500, "internal_error", "a bug"
            raise
        finally:
            self._under_way.discard(working)
            self._ledger.ended(record)
            self._records.close(record)
            # Klein finishes the response only behind this coroutine.
            self._clock.callLater(0, self._tell_idle)

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._under_way:
            idle, self._idle = self._idle, None
            idle.callback(None)

    async def _unless_stopped(self, working: Deferred[None], record: Record) -> None:
        try:
            await working
        except CancelledError:
            if not self._stopped or record.end:
                raise
            raise _draining() from None

    def idle(self) -> Deferred[None]:
        """Fires once no request is under way. Only one may wait."""
        if not self._under_way:
            return succeed(None)
        self._idle = Deferred(lambda _: setattr(self, "_idle", None))
        return self._idle

    def break_off(self) -> None:
        """End every request now: streams with an error event, the others with a refusal."""
        self._stopped = True
        for answer in tuple(self._dispatch.open_answers):
            answer.break_off("was cut off: the gateway is stopping")
        for working in tuple(self._under_way):
            working.cancel()

    async def _answer(
        self, request: EdgeRequest, api: Api, record: Record, key: KeyRecord | None
    ) -> None:
        if self.draining:
            request.setHeader("connection", "close")
            raise _draining()
        _refuse_other_types(request)
        leave = self._limits.enter(key, request)
        try:
            await self._answer_within_limits(request, api, record, key)
        finally:
            leave()

    async def _answer_within_limits(
        self, request: EdgeRequest, api: Api, record: Record, key: KeyRecord | None
    ) -> None:
        body = request.content.read()
        ask = await self._read(api, body)
        record.asked, record.stream = ask.model, ask.stream
        wanted = self._wanted(ask.model, key)
        record.role = wanted.role.name
        self._ledger.began(record)
        chain = self._chain(request, ask)
        wants = [self._want(request, ask, each, key, chain) for each in self._in_turn(wanted)]
        identity = blake2b(body, digest_size=16).digest()
        call = Call(ask, identity, tuple(wants), _upstream_headers(request), record, chain)
        warmth = self._keep_warm(request, wanted.role) if ask.stream else None
        try:
            answer = await self._dispatch.open(call)
        except Refusal as refusal:
            if warmth is None or not warmth.begun:
                raise
            record.status = 200
            self._delivery.refuse_in_stream(refusal, api, record, request)
            return
        finally:
            if warmth is not None:
                warmth.stop()
        await self._delivery.deliver(answer, call, request)

    async def _read(self, api: Api, body: bytes) -> Ask:
        """What a body asks for; a long one is read beside the reactor, which others need."""
        if len(body) < LONG_BODY:
            return read(api, body)
        threads = self._clock.getThreadPool()
        return await deferToThreadPool(self._clock, threads, read, api, body)

    def _keep_warm(self, request: EdgeRequest, role: Role) -> KeepWarm | None:
        after = role.queue.keep_warm
        return KeepWarm(self._clock, request, after, role.name) if after else None

    def _want(
        self, request: EdgeRequest, ask: Ask, wanted: Wanted, key: KeyRecord | None, chain: Chain
    ) -> Want:
        def cached(id: BackendId) -> tuple[int, int]:
            entry = self._registry.get(id)
            slots = entry.backend.slots if entry else None
            return self._memory.cached(id, chain, slots, self._clock.seconds())

        tokens = max(chain.tokens, ask.size // 8)
        owner: Hashable = key.id if key else None
        until = self._clock.seconds() + _wait(request, wanted.role)
        output = _output(ask)
        return Want(
            Need(
                wanted.role,
                tokens,
                wanted.node,
                slotless=not ask.api.generates,
                lot=lot_of(chain, ask.api),
            ),
            owner,
            chain.party,
            until,
            cached,
            output,
        )

    def _in_turn(self, wanted: Wanted) -> Iterator[Wanted]:
        """The wanted role and those that stand in for it; a key for the one is good for these."""
        yield wanted
        for name in wanted.role.fallback:
            yield Wanted(self.roles.listed[name])

    def _chain(self, request: EdgeRequest, ask: Ask) -> Chain:
        headers = {
            name.decode("ascii", "replace").lower(): values[-1].decode("utf-8", "replace")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        return chain_of(ask, session_of(headers, ask.facts))

    def _wanted(self, name: str | None, key: KeyRecord | None) -> Wanted:
        return self._book(key).find(name)

    def _book(self, key: KeyRecord | None) -> RoleBook:
        """The roles as the holder of a key sees them; without keys, all of them."""
        book = self.roles.with_announced(self._registry.announced())
        return book if key is None else book.only(key.allows)

    def _model(self, name: str, role: Role) -> dict[str, Any]:
        standing = self._registry.standing(role)
        about: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "rolemesh",
        }
        if standing.context:
            about |= {"context_length": standing.context, "max_model_len": standing.context}
            about["meta"] = {"n_ctx": standing.context}
        about["rolemesh"] = {
            "kind": "role",
            "ready": standing.ready,
            "total": standing.total,
            "aliases": role.aliases,
        }
        return about


def _route(api: Api) -> None:
    async def relay(self: ClientApi, request: EdgeRequest) -> None:
        await self.relay(request, api)

    relay.__name__ = api.name.lower()
    ClientApi.app.route(api.value, methods=["POST"])(relay)


for _api in Api:
    _route(_api)


def _told(standing: Standing) -> dict[str, Any]:
    return {"ready": standing.ready, "total": standing.total, "missing": standing.missing}


def _phase(record: Record) -> str:
    if record.backend is None:
        return "in the queue"
    return "before the first byte" if record.first_byte is None else "in the middle of its answer"


def _draining() -> Refusal:
    return Refusal("draining", "The gateway is stopping. Send again.", retry_after=2.0)


def _refuse_other_types(request: EdgeRequest) -> None:
    """Take JSON, and what `curl -d` calls a form; but from a page, which has an origin, nothing
    that its browser sends anywhere without asking first."""
    given = request.getHeader("content-type")
    kind = (given or "application/json").partition(";")[0].strip().lower()
    by_hand = kind == "application/x-www-form-urlencoded" and request.getHeader("origin") is None
    if kind != "application/json" and not kind.endswith("+json") and not by_hand:
        raise Refusal(
            "unsupported_media_type",
            "The body must be JSON: send it with 'Content-Type: application/json'.",
        )


def _json(request: EdgeRequest, value: Any) -> bytes:
    request.setHeader("content-type", "application/json")
    return msgspec.json.encode(value)


def _wait(request: EdgeRequest, role: Role) -> float:
    """How long a request may wait for a slot: no longer than its client waits for the answer."""
    if role.queue.wait is not None:
        return role.queue.wait
    for name in _READ_TIMEOUTS:
        try:
            return max(1.0, min(float(request.getHeader(name) or ""), LONGEST_WAIT))
        except ValueError:
            continue
    return LONGEST_WAIT


def _output(ask: Ask) -> int:
    """About how many tokens an answer will have: what the client allows, or a usual length."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        most = ask.facts.get(name)
        if isinstance(most, int) and most > 0:
            return min(most, 512)
    return 256


def _upstream_headers(request: EdgeRequest) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-request-id": request.request_id}
    for name in _PASSED_ON:
        value = request.getHeader(name)
        if value is not None:
            headers[name] = value
    return headers
