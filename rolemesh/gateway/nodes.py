"""The Klein routes for nodes: register, heartbeat, leave; and who is there."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from attrs import define, evolve
from klein import Klein
from twisted.logger import Logger

from rolemesh.core.addresses import (
    Address,
    AddressPolicy,
    judge,
    leads_back,
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
)
from rolemesh.core.roles import RoleBook
from rolemesh.core.routing import lacks
from rolemesh.gateway.company import Company
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.keys import Gatekeeper, address_of
from rolemesh.gateway.node_view import nodes_json, own_json
from rolemesh.gateway.registrations import RegistrationPace, read_request, reports_of
from rolemesh.gateway.registry import HEARTBEAT, LEASE, Registry
from rolemesh.gateway.store.interface import Kept, lasting
from rolemesh.gateway.store.keeper import Keeper

_PATHS = "/v1/nodes/register, /v1/nodes/join, /v1/nodes/{node}/heartbeat, /v1/nodes/{node}"


@define(eq=False)
class NodeApi:
    """What nodes may tell a gateway. `resolve` gives the addresses behind a host name, `now` the
    time of day; `is_own` says of an address and a port whether this gateway itself listens there.
    """

    _registry: Registry
    _keys: Gatekeeper
    roles: RoleBook
    policy: AddressPolicy
    _announce: bool
    _resolve: Callable[[str], Awaitable[Sequence[str]]]
    _keeper: Keeper
    _now: Callable[[], float]
    _company: Company
    _pace: RegistrationPace
    _is_own: Callable[[Address, int], bool]

    log = Logger()
    app = Klein()
    answers_errors(app, _PATHS)

    @app.route("/v1/nodes", methods=["GET"])
    def list(self, request: EdgeRequest) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        nodes = nodes_json(self._registry, self.roles, key, self._alone)
        return _json(request, {"object": "list", "data": nodes})

    @app.route("/v1/nodes/register", methods=["POST"])
    async def register(self, request: EdgeRequest) -> bytes:
        registration = read_request(request)
        token = self._keys.node(request, registration.node)
        self._pace.enter(token)
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
        registration = read_request(request)
        if registration.node != node:
            raise Refusal("bad_request", f"The body is of '{registration.node}', not of '{node}'.")
        token = self._keys.node(request, node)
        if not self._is_only_kept(node) and self._registry.stale(registration):
            return _json(request, self._accepted(registration, (), ()))
        accepted, kept = await self._take_in(registration, token, address_of(request))
        self._keeper.keep_soon(kept)
        return _json(request, accepted)

    @app.route("/v1/nodes/<node>", methods=["GET"])
    def one(self, request: EdgeRequest, node: str) -> bytes:
        """What the gateway knows of a node, told to the node itself."""
        self._keys.node(request, node)
        known = self._registry.node(node)
        if known is None:
            raise Refusal("unknown_node", f"The node '{node}' is not registered here.")
        told = {**own_json(self._registry, known, self._alone), "roles": self._roles_of(node)}
        return _json(request, told)

    @app.route("/v1/nodes/<node>", methods=["DELETE"])
    async def leave(self, request: EdgeRequest, node: str) -> bytes:
        self._keys.node(request, node)
        if not self._is_only_kept(node):
            self._registry.deregister(node)
        await self._keeper.forget(node)
        self.log.info("{node} left", node=node, **{"rolemesh.node": node})
        return _json(request, {"node": node, "deleted": True})

    def _is_only_kept(self, node: str) -> bool:
        """Whether it was silent for so long that it is shown no more, and its record stands."""
        return self._registry.node(node) is None and self._keeper.holds(node)

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
            self._registry.restore(told, backends, shared, kept.token)

    def drop(self, node: str) -> None:
        """Let go of a node that left another gateway of the shared store."""
        if self._registry.node(node) is not None:
            self._registry.deregister(node)
            self.log.info("{node} left elsewhere", node=node, **{"rolemesh.node": node})

    async def _take_in(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Accepted, Kept]:
        backends, refused = await self._judged(registration, token, source)
        self._registry.register(registration, backends, token.id if token else None)
        accepted = tuple(backend.id.backend for backend in backends)
        kept = Kept(
            lasting(registration, [backend.base_url for backend in backends]),
            str(source or ""),
            token.id if token else None,
            self._now(),
        )
        return self._accepted(registration, accepted, tuple(refused)), kept

    @property
    def _alone(self) -> bool:
        return self._company.now.count <= 1

    def _accepted(
        self,
        registration: Registration,
        accepted: tuple[str, ...],
        refused: tuple[RefusedBackend, ...],
    ) -> Accepted:
        company = self._company
        return Accepted(
            registration.node, LEASE, HEARTBEAT, company.now.urls, accepted, refused, company.id
        )

    async def _judged(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Sequence[Backend], Sequence[RefusedBackend]]:
        policy = evolve(self.policy, source=source)
        backends: list[Backend] = []
        refused: list[RefusedBackend] = []
        for report in reports_of(registration):
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
        base_url, address = await self._pinned(report.base_url, policy)
        backend = Backend(
            BackendId(registration.node, report.id),
            base_url,
            key=report.key,
            model=report.model,
            roles=frozenset(report.roles) - barred,
            barred=barred,
            slots=report.slots,
            context=report.context,
            build=report.build,
            labels=registration.labels,
            address=address,
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

    async def _pinned(self, base_url: str, policy: AddressPolicy) -> tuple[str, str | None]:
        """A base URL and the one checked address that it leads to, whatever its name comes to mean
        later; with https the name stays, as its certificate is verified by it."""
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
            if refusal is None and self._is_own(address, url.port):
                refusal = leads_back(url)
            if refusal is not None:
                raise refusal
        pinned = str(min(addresses, key=_rank))
        if url.scheme == "https" and url.needs_resolution:
            return url.url, pinned
        return evolve(url, host=pinned).url, None

    def _roles_of(self, name: str) -> dict[str, dict[str, int]]:
        """The roles that a node has a part in, with how many of all their backends are ready."""
        book = self.roles.with_announced(self._registry.announced())
        found = {}
        for role in book.listed.values():
            members = self._registry.members(role)
            if any(entry.backend.id.node == name for _, entry in members):
                standing = self._registry.standing(role)
                found[role.name] = {"ready": standing.ready, "total": standing.total}
        return found


def _rank(address: Address) -> tuple[int, int]:
    """The same of several addresses each time, in whatever order a resolver tells them."""
    return address.version, int(address)


def _json(request: EdgeRequest, value: Any) -> bytes:
    request.setHeader("content-type", "application/json")
    return encode(value) if isinstance(value, msgspec.Struct) else msgspec.json.encode(value)
