"""The Klein routes for nodes: register, heartbeat, leave; and who is there."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from attrs import define, evolve
from klein import Klein
from twisted.logger import Logger

from rolemesh.config.problems import quoted
from rolemesh.core.addresses import (
    Address,
    AddressPolicy,
    judge,
    parse_base_url,
    read_address,
)
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord, Scope
from rolemesh.core.model import Backend, BackendId
from rolemesh.core.report import (
    Accepted,
    BackendReport,
    RefusedBackend,
    Registration,
    encode,
    read_registration,
)
from rolemesh.core.roles import RoleBook
from rolemesh.core.routing import lacks
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.keys import Gatekeeper, address_of
from rolemesh.gateway.registry import HEARTBEAT, LEASE, PLAIN_BACKEND, STATIC_NODE, Registry
from rolemesh.gateway.store.interface import Kept, lasting
from rolemesh.gateway.store.keeper import Keeper

LONGEST_REPORT = 64 * 1024
_PLAIN_FIELDS = ("node", "base_url", "roles", "labels")
_PATHS = "/v1/nodes/register, /v1/nodes/{node}/heartbeat, /v1/nodes/{node}"


@define(eq=False)
class NodeApi:
    """What nodes may tell a gateway. `resolve` gives the addresses behind a host name, `now` the
    time of day."""

    _registry: Registry
    _keys: Gatekeeper
    roles: RoleBook
    policy: AddressPolicy
    _announce: bool
    _resolve: Callable[[str], Awaitable[Sequence[str]]]
    _keeper: Keeper
    _now: Callable[[], float]

    log = Logger()
    app = Klein()
    answers_errors(app, _PATHS)

    @app.route("/v1/nodes", methods=["GET"])
    def list(self, request: EdgeRequest) -> bytes:
        self._keys.client(request, Scope.MODELS)
        nodes = [self._about(node.name) for node in self._registry.nodes()]
        return _json(request, {"object": "list", "data": nodes})

    @app.route("/v1/nodes/register", methods=["POST"])
    async def register(self, request: EdgeRequest) -> bytes:
        registration = _read(request)
        token = self._keys.node(request, registration.node)
        accepted, kept = await self._take_in(registration, token, address_of(request))
        await self._keeper.keep(kept)
        self.log.info(
            "{node} registered {count} backends",
            node=registration.node,
            count=len(accepted.accepted),
            **{"rolemesh.node": registration.node, "http.request.id": request.request_id},
        )
        return _json(request, accepted)

    @app.route("/v1/nodes/<node>/heartbeat", methods=["POST"])
    async def heartbeat(self, request: EdgeRequest, node: str) -> bytes:
        registration = _read(request)
        if registration.node != node:
            raise Refusal("bad_request", f"The body is of '{registration.node}', not of '{node}'.")
        token = self._keys.node(request, node)
        if self._registry.stale(registration):
            return _json(request, _accepted(registration, (), ()))
        accepted, kept = await self._take_in(registration, token, address_of(request))
        self._keeper.keep_soon(kept)
        return _json(request, accepted)

    @app.route("/v1/nodes/<node>", methods=["DELETE"])
    async def leave(self, request: EdgeRequest, node: str) -> bytes:
        self._keys.node(request, node)
        if self._registry.node(node) is not None or not self._keeper.holds(node):
            self._registry.deregister(node)
        await self._keeper.forget(node)
        self.log.info("{node} left", node=node, **{"rolemesh.node": node})
        return _json(request, {"node": node, "deleted": True})

    async def restore(self, kept: Kept, shared: bool) -> None:
        """Take in a node that registered in an earlier life of the gateway, or at another gateway
        of a `shared` store, as far as today's rules here allow it."""
        told = kept.registration
        try:
            token = self._keys.token(kept.token, told.node)
            backends, _ = await self._judged(told, token, read_address(kept.source))
        except Refusal as refusal:
            self.log.warn("{node} is not restored: {why}", node=told.node, why=refusal.message)
        else:
            self._registry.restore(told, backends, shared)

    def drop(self, node: str) -> None:
        """Let go of a node that left another gateway of the shared store."""
        if self._registry.node(node) is not None:
            self._registry.deregister(node)
            self.log.info("{node} left elsewhere", node=node, **{"rolemesh.node": node})

    async def _take_in(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Accepted, Kept]:
        backends, refused = await self._judged(registration, token, source)
        self._registry.register(registration, backends)
        accepted = tuple(backend.id.backend for backend in backends)
        kept = Kept(
            lasting(registration, [backend.base_url for backend in backends]),
            str(source or ""),
            token.id if token else None,
            self._now(),
        )
        return _accepted(registration, accepted, tuple(refused)), kept

    async def _judged(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Sequence[Backend], Sequence[RefusedBackend]]:
        policy = evolve(self.policy, source=source)
        backends: list[Backend] = []
        refused: list[RefusedBackend] = []
        for report in _reports(registration):
            backend, why = await self._backend(registration, report, token, policy)
            backends.append(backend)
            refused += why
        return backends, refused

    async def _backend(
        self,
        registration: Registration,
        report: BackendReport,
        token: KeyRecord | None,
        policy: AddressPolicy,
    ) -> tuple[Backend, Sequence[RefusedBackend]]:
        """A report as the gateway takes it, and the roles in it that it does not take.

        :raises Refusal: when its base URL is not allowed.
        """
        by_model = {
            name for name, role in self.roles.listed.items() if report.model in role.models()
        }
        announced = set(report.roles) - (set() if self._announce else by_model)
        refusals = {
            role: self._refuses(role, registration, report, token, role in by_model)
            for role in sorted(by_model | announced)
        }
        refused = [RefusedBackend(report.id, no.code, no.message) for no in refusals.values() if no]
        barred = frozenset(role for role, no in refusals.items() if no is not None)
        backend = Backend(
            BackendId(registration.node, report.id),
            await self._pinned(report.base_url, policy),
            key=report.key,
            model=report.model,
            roles=frozenset(report.roles) - barred,
            barred=barred,
            slots=report.slots,
            context=report.context,
            build=report.build,
            labels=registration.labels,
        )
        return backend, refused

    def _refuses(
        self,
        role: str,
        registration: Registration,
        report: BackendReport,
        token: KeyRecord | None,
        by_model: bool,
    ) -> Refusal | None:
        where = f"{registration.node}/{report.id} is not in '{role}'"
        if not self._announce and not by_model:
            return Refusal("role_not_allowed", f"{where}: this gateway takes no announced roles")
        if token is not None and not token.allows(role):
            return Refusal("role_not_allowed", f"{where}: its token does not allow that role")
        listed = self.roles.listed.get(role)
        labels = frozenset(registration.labels.items())
        lack = lacks(report.context, None, labels, listed.require) if listed else ""
        return Refusal("role_not_allowed", f"{where}: {lack}") if lack else None

    async def _pinned(self, base_url: str, policy: AddressPolicy) -> str:
        """A base URL that leads to one checked address, whatever its name comes to mean later."""
        url = parse_base_url(base_url)
        if url.address is not None:
            addresses = [url.address]
        else:
            found = [read_address(each) for each in await self._resolve(url.host)]
            addresses = [each for each in found if each is not None]
        if not addresses:
            raise Refusal(
                "bad_request", f"{url.host} cannot be resolved: register an IP address.", "base_url"
            )
        for address in addresses:
            refusal = judge(url, address, policy)
            if refusal is not None:
                raise refusal
        pinned = url if url.scheme == "https" else evolve(url, host=str(addresses[0]))
        return pinned.url

    def _about(self, name: str) -> dict[str, Any]:
        node = self._registry.node(name)
        assert node is not None
        entries = [entry for id in node.backends if (entry := self._registry.get(id)) is not None]
        return {
            "node": node.name,
            "plain": node.plain,
            "labels": dict(node.labels),
            "gpus": node.gpus,
            "host": node.host,
            "agent": node.version or None,
            "backends": [
                {
                    "id": entry.backend.id.backend,
                    "model": entry.backend.model,
                    "roles": sorted(entry.backend.roles),
                    "slots": entry.backend.slots,
                    "context": entry.backend.context or None,
                    "build": entry.backend.build or None,
                    "ready": entry.ready,
                    "draining": entry.draining,
                    "state": entry.note() or entry.health.condition.value,
                    "in_flight": entry.in_flight,
                    "orphaned_slots": entry.orphaned,
                    "mismatches": entry.mismatches,
                    "restarts": entry.report.restarts if entry.report else 0,
                    "note": entry.report.note if entry.report else "",
                    "last_exit": entry.report.last_exit if entry.report else None,
                }
                for entry in entries
            ],
        }


def refuse_long_report(request: EdgeRequest) -> None:
    """Refuse what says beforehand that it is longer than a report may be.

    :raises Refusal: request_too_large.
    """
    declared = request.getHeader("content-length") or "0"
    if declared.isdigit() and int(declared) > LONGEST_REPORT:
        raise Refusal("request_too_large", f"A registration is at most {LONGEST_REPORT} bytes.")


def _read(request: EdgeRequest) -> Registration:
    if request.getHeader("origin") is not None:
        raise Refusal("scope_missing", "Nodes are not registered from a browser's page.")
    body = request.content.read(LONGEST_REPORT + 1)
    if len(body) > LONGEST_REPORT:
        raise Refusal("request_too_large", f"A registration is at most {LONGEST_REPORT} bytes.")
    try:
        registration = read_registration(body)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"This is no registration: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("invalid_json", f"The body cannot be read as JSON: {error}.") from None
    _refuse_odd(registration)
    if registration.plain:
        _refuse_slips(body)
    return registration


def _refuse_slips(body: bytes) -> None:
    """What a person typed has no field that is only nearly one; an agent may be newer than we."""
    for name in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
        if name not in _PLAIN_FIELDS:
            fields = ", ".join(_PLAIN_FIELDS)
            raise Refusal("bad_request", f"Unknown field {quoted(name)}; there are: {fields}.")


def _refuse_odd(registration: Registration) -> None:
    if registration.node == STATIC_NODE:
        raise Refusal("bad_request", f"'{STATIC_NODE}' names the configuration's own servers.")
    if registration.plain and (registration.backends or not registration.roles):
        raise Refusal(
            "bad_request",
            "A registration has either `base_url` and `roles`, or `instance` and `backends`.",
        )
    if not registration.plain and not registration.instance:
        raise Refusal("missing_required_parameter", "`base_url`, or `instance`, is missing.")
    ids = [report.id for report in registration.backends]
    if len(set(ids)) != len(ids):
        raise Refusal("bad_request", "Two backends of the registration have the same `id`.")


def _reports(registration: Registration) -> Sequence[BackendReport]:
    if registration.base_url is None:
        return registration.backends
    return [BackendReport(PLAIN_BACKEND, registration.base_url, roles=registration.roles)]


def _accepted(
    registration: Registration, accepted: tuple[str, ...], refused: tuple[RefusedBackend, ...]
) -> Accepted:
    return Accepted(registration.node, LEASE, HEARTBEAT, (), accepted, refused)


def _json(request: EdgeRequest, value: Any) -> bytes:
    request.setHeader("content-type", "application/json")
    return encode(value) if isinstance(value, msgspec.Struct) else msgspec.json.encode(value)
