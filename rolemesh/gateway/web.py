"""The Klein routes for clients: decode, await, encode. No decisions."""

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field
from klein import Klein
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord, Scope
from rolemesh.core.model import Role
from rolemesh.core.openai import Api, read
from rolemesh.core.routing import Go, No
from rolemesh.gateway.admission import Admission
from rolemesh.gateway.asking import Asking
from rolemesh.gateway.catalogue import Catalogue
from rolemesh.gateway.delivery import Delivery
from rolemesh.gateway.dispatch import Dispatch
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.keys import Gatekeeper, everything
from rolemesh.gateway.limits import KeyLimits
from rolemesh.gateway.membership import Standing
from rolemesh.gateway.records import Record, Records, score_json
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.under_way import UnderWay, draining
from rolemesh.gateway.usage import Ledger
from rolemesh.gateway.usage_view import usage_json
from rolemesh.gateway.warmth import KeepWarm

_PATHS = "/v1/models, " + ", ".join(api.value for api in Api) + ", /health, /ready"


@define(eq=False)
class ClientApi:
    """What clients may ask of a gateway. `warnings` is what its operator should see to soon."""

    _clock: IReactorTime
    _keys: Gatekeeper
    catalogue: Catalogue
    _asking: Asking
    _admission: Admission
    _dispatch: Dispatch
    _delivery: Delivery
    _records: Records
    _keeper: Keeper
    _limits: KeyLimits
    _ledger: Ledger
    _under_way: UnderWay
    _warnings: Callable[[], Sequence[str]]
    draining: bool = field(default=False, init=False)

    app = Klein()
    answers_errors(app, _PATHS)

    @app.route("/", methods=["GET", "HEAD"])
    def home(self, request: EdgeRequest) -> bytes:
        return request.as_json({"name": "rolemesh", "models": "/v1/models", "ready": "/ready"})

    @app.route("/health", methods=["GET", "HEAD"])
    def health(self, request: EdgeRequest) -> bytes:
        return request.as_json({"status": "ok"})

    @app.route("/ready", methods=["GET", "HEAD"])
    def ready(self, request: EdgeRequest) -> bytes:
        standings = self.catalogue.standings()
        anything = any(standing.ready for standing in standings.values())
        good = anything and not self.draining and self._keys.readable()
        request.setResponseCode(200 if good else 503)
        told: dict[str, Any] = {"status": self._status(good)}
        sees = self._keys.seen_by(request) if self._keys.readable() else None
        if sees is not None:
            told["roles"] = {name: _told(each) for name, each in standings.items() if sees(name)}
        if sees is everything and (warnings := self._warnings()):
            told["warnings"] = warnings
        return request.as_json(told)

    def _status(self, good: bool) -> str:
        """In a word; degraded means that it serves, and would forget new nodes in a restart."""
        if not good:
            return "draining" if self.draining else "unavailable"
        return "degraded" if self._keeper.trouble else "ready"

    @app.route("/v1/models", methods=["GET", "HEAD"])
    def models(self, request: EdgeRequest) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        return request.as_json({"object": "list", "data": self.catalogue.models(key)})

    @app.route("/v1/models/<path:name>", methods=["GET", "HEAD"])
    def model(self, request: EdgeRequest, name: str) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        return request.as_json(self.catalogue.model(name, self.catalogue.book(key).find(name).role))

    @app.route("/v1/requests/<id>", methods=["GET"])
    def request_record(self, request: EdgeRequest, id: str) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        own = key.id if key else None
        record = self._records.last(own) if id == "last" else None
        record = record or self._records.get(id, own)
        if record is None:
            raise Refusal("unknown_url", "No such request of this key is remembered.")
        return request.as_json(record.as_json())

    @app.route("/v1/usage", methods=["GET"])
    def usage(self, request: EdgeRequest) -> bytes:
        return request.as_json(usage_json(request, self._keys, self._ledger))

    @app.route("/v1/roles/<role>/explain", methods=["POST"])
    def explain(self, request: EdgeRequest, role: str) -> bytes:
        key = request.key or self._keys.client(request)
        ask = read(Api.CHAT, request.content.read() or b"{}")
        wanted = self.catalogue.book(key).find(role)
        want = self._asking.want(request, ask, wanted, key)
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
        return request.as_json(answer)

    async def relay(self, request: EdgeRequest, api: Api) -> None:
        """Answer one request of a client by a backend."""
        key = request.key or self._keys.client(request)
        record = self._records.open(request.request_id, api.value, key.id if key else None)
        try:
            await self._under_way.run(self._answer(request, api, record, key), record)
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
            self._ledger.ended(record)
            self._records.close(record)

    def idle(self) -> Deferred[None]:
        """Fires once no request is under way. Only one may wait."""
        return self._under_way.idle()

    def break_off(self) -> None:
        """End every request now: streams with an error event, the others with a refusal."""
        for answer in tuple(self._dispatch.open_answers):
            answer.break_off("was cut off: the gateway is stopping")
        self._under_way.cut_off()

    async def _answer(
        self, request: EdgeRequest, api: Api, record: Record, key: KeyRecord | None
    ) -> None:
        if self.draining:
            request.setHeader("connection", "close")
            raise draining()
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
        ask = await self._asking.read(api, body)
        record.asked, record.stream = ask.model, ask.stream
        wanted = self.catalogue.book(key).find(ask.model)
        record.role = wanted.role.name
        self._ledger.began(record)
        call = self._asking.call(request, ask, wanted, key, body, record)
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

    def _keep_warm(self, request: EdgeRequest, role: Role) -> KeepWarm | None:
        after = role.queue.keep_warm
        return KeepWarm(self._clock, request, after, role.name) if after else None


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


def _refuse_other_types(request: EdgeRequest) -> None:
    """Take JSON, and what `curl -d` calls a form; but from a page, which has an origin, nothing
    that its browser sends anywhere without asking first."""
    given = request.getHeader("content-type")
    kind = (given or "application/json").partition(";")[0].strip().lower()
    by_hand = kind == "application/x-www-form-urlencoded" and request.getHeader("origin") is None
    if request.getHeader("content-encoding") not in (None, "", "identity"):
        raise Refusal(
            "unsupported_media_type", "The body is packed: send it without Content-Encoding."
        )
    if kind != "application/json" and not kind.endswith("+json") and not by_hand:
        raise Refusal(
            "unsupported_media_type",
            "The body must be JSON: send it with 'Content-Type: application/json'.",
        )
