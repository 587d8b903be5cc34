"""The Klein routes for nodes: register, heartbeat, leave; and who is there."""

from collections.abc import Callable

from attrs import define
from klein import Klein
from twisted.logger import Logger

from rolemesh.core.addresses import Address, read_address
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord, Scope
from rolemesh.core.report import Accepted, RefusedBackend, Registration
from rolemesh.gateway.acceptance import Acceptance
from rolemesh.gateway.certified import ending_of
from rolemesh.gateway.company import Company
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.failures import address_of
from rolemesh.gateway.fleet import HEARTBEAT, LEASE, Fleet
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.node_view import nodes_json, own_json
from rolemesh.gateway.registrations import RegistrationPace, read_request
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.store.interface import Kept, lasting
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.tls.ending import Endings

_PATHS = "/v1/nodes/register, /v1/nodes/join, /v1/nodes/{node}/heartbeat, /v1/nodes/{node}"


@define(eq=False)
class NodeApi:
    """What nodes may tell a gateway. `now` is the time of day."""

    _fleet: Fleet
    _registry: Registry
    _keys: Gatekeeper
    _acceptance: Acceptance
    _keeper: Keeper
    _now: Callable[[], float]
    _company: Company
    _pace: RegistrationPace
    _endings: Endings

    log = Logger()
    app = Klein()
    answers_errors(app, _PATHS)

    @app.route("/v1/nodes", methods=["GET"])
    def list(self, request: EdgeRequest) -> bytes:
        key = self._keys.client(request, Scope.MODELS)
        nodes = nodes_json(self._fleet, self._registry, self._acceptance.roles, key, self._alone)
        return request.as_json({"object": "list", "data": nodes})

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
        return request.as_json(accepted)

    @app.route("/v1/nodes/<node>/heartbeat", methods=["POST"])
    async def heartbeat(self, request: EdgeRequest, node: str) -> bytes:
        token = self._keys.node(request, node)
        self._pace.beat(token)
        if (ending := ending_of(request, node)) is not None:
            self._endings.note(ending)
        registration = read_request(request)
        if registration.node != node:
            raise Refusal("bad_request", f"The body is of '{registration.node}', not of '{node}'.")
        if not self._is_only_kept(node) and self._fleet.stale(registration):
            return request.as_json(self._accepted(registration, (), ()))
        accepted, kept = await self._take_in(registration, token, address_of(request))
        self._keeper.keep_soon(kept)
        return request.as_json(accepted)

    @app.route("/v1/nodes/<node>", methods=["GET"])
    def one(self, request: EdgeRequest, node: str) -> bytes:
        """What the gateway knows of a node, told to the node itself."""
        self._keys.node(request, node)
        known = self._fleet.get(node)
        if known is None:
            raise Refusal("unknown_node", f"The node '{node}' is not registered here.")
        told = {**own_json(self._registry, known, self._alone), "roles": self._roles_of(node)}
        return request.as_json(told)

    @app.route("/v1/nodes/<node>", methods=["DELETE"])
    async def leave(self, request: EdgeRequest, node: str) -> bytes:
        self._keys.node(request, node)
        if not self._is_only_kept(node):
            self._fleet.deregister(node)
        await self._keeper.forget(node)
        self.log.info("{node} left", node=node, **{"rolemesh.node": node})
        return request.as_json({"node": node, "deleted": True})

    def _is_only_kept(self, node: str) -> bool:
        """Whether it was silent for so long that it is shown no more, and its record stands."""
        return self._fleet.get(node) is None and self._keeper.holds(node)

    async def restore(self, kept: Kept, shared: bool) -> None:
        """Take in a node that registered in an earlier life of the gateway, or at another gateway
        of a `shared` store, as far as today's rules here allow it."""
        told = kept.registration
        try:
            token = self._keys.token(kept.token, told.node)
            backends, _ = await self._acceptance.judge(told, token, read_address(kept.source))
        except Refusal as refusal:
            self.log.warn("{node} is not restored: {why}", node=told.node, why=refusal.message)
        else:
            self._fleet.restore(told, backends, shared, kept.token)

    def drop(self, node: str) -> None:
        """Let go of a node that left another gateway of the shared store."""
        if self._fleet.get(node) is not None:
            self._fleet.deregister(node)
            self.log.info("{node} left elsewhere", node=node, **{"rolemesh.node": node})

    async def _take_in(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Accepted, Kept]:
        backends, refused = await self._acceptance.judge(registration, token, source)
        self._fleet.register(registration, backends, token.id if token else None)
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

    def _roles_of(self, name: str) -> dict[str, dict[str, int]]:
        """The roles that a node has a part in, with how many of all their backends are ready."""
        book = self._acceptance.roles.with_announced(self._registry.announced())
        found = {}
        for role in book.listed.values():
            members = self._registry.members(role)
            if any(entry.backend.id.node == name for _, entry in members):
                standing = self._registry.standing(role)
                found[role.name] = {"ready": standing.ready, "total": standing.total}
        return found
