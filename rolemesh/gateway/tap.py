"""`twistd rolemesh-gateway`: the only place where the gateway's objects meet."""

import os
import resource
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any
from uuid import uuid4

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.problems import ConfigError
from rolemesh.core.addresses import AddressPolicy, read_network
from rolemesh.core.affinity import Memory
from rolemesh.core.errors import Refusal
from rolemesh.core.openai import Api
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.admin import OperatorApi
from rolemesh.gateway.admission import Admission
from rolemesh.gateway.attempt import Attempt
from rolemesh.gateway.commands import Orders
from rolemesh.gateway.delivery import Delivery
from rolemesh.gateway.dispatch import Dispatch
from rolemesh.gateway.edge import Limits, build_site
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.front import Front
from rolemesh.gateway.health import Checks
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.listening import loopback_only
from rolemesh.gateway.nodes import NodeApi, refuse_long_report
from rolemesh.gateway.progress import Progress
from rolemesh.gateway.records import Records
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.reload import Reload
from rolemesh.gateway.statics import static_backends
from rolemesh.gateway.store.interface import NewerSchema, Prepared, Store, StoreFailed
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.store.sqlite import SqliteStore
from rolemesh.gateway.upstream import Upstream
from rolemesh.gateway.web import ClientApi
from rolemesh.service import Listening, ServiceOptions, Signals, keep_steady, refuse

LONGEST_BODY = 32 * 2**20
_CLIENT_PATHS = frozenset(api.value.encode() for api in Api)
CONNECTIONS = 4096  # half of them of one address, which may be a balancer's
OWN_DESCRIPTORS = 24

_log = Logger()


class Options(ServiceOptions):
    """`twistd rolemesh-gateway`."""

    config_file = "models.yaml"
    config_variable = "ROLE_MESH_CONFIG"

    def __init__(self) -> None:
        super().__init__()
        self.endpoints: list[str] = []

    def opt_listen(self, endpoint: str) -> None:
        """Listen here instead of where the file says; may be given several times."""
        self.endpoints.append(endpoint)

    def load(self, path: Path) -> GatewaySettings:
        return load_gateway(path, os.environ)

    def postOptions(self) -> None:
        super().postOptions()
        self.endpoints = self.endpoints or list(self.settings.listen)
        if self.settings.keys is None and not loopback_only(self.endpoints):
            refuse(
                [
                    f"{self.config_path}: listening on {', '.join(self.endpoints)} without client"
                    " keys would open this mesh to the network; make one with"
                    f" `rolemesh keys add --file {self.config_path.parent / 'keys.yaml'}` and set"
                    " `gateway: {keys: {file: keys.yaml}}`"
                ]
            )


def makeService(options: Options) -> MultiService:
    """The gateway as twistd runs it."""
    from twisted.internet import reactor  # importing it earlier would choose it for everybody

    keep_steady(reactor)
    if options.settings.store is None:
        store: Prepared = SqliteStore(reactor, options.state_dir / "state.db", time.time)
    else:
        store = _postgres(reactor, options.settings.store)
    try:
        with suppress(StoreFailed):  # it is tried again while the gateway runs
            store.prepare()
    except NewerSchema as error:
        refuse([str(error)])
    return gateway_service(reactor, options.settings, options.config_path, options.endpoints, store)


def _postgres(reactor: Any, url: str) -> Prepared:
    try:
        from psycopg import ProgrammingError

        from rolemesh.gateway.store.postgres import PostgresStore
    except ImportError:
        refuse(["gateway.store is a database, which takes: pip install 'rolemesh[postgres]'"])
    try:
        return PostgresStore(reactor, url)
    except ProgrammingError:
        refuse(["gateway.store is no URL of a database: write postgresql://USER@HOST:PORT/NAME"])


def gateway_service(
    reactor: Any, settings: GatewaySettings, path: Path, endpoints: Sequence[str], store: Store
) -> MultiService:
    """A gateway with all of its objects, not yet listening."""
    life, reload = build(reactor, settings, path, endpoints, store)
    service = MultiService()
    Signals(reactor, reload, life.hurry).setServiceParent(service)
    life.setServiceParent(service)
    return service


def build(
    reactor: Any,
    settings: GatewaySettings,
    path: Path,
    endpoints: Sequence[str],
    store: Store | None = None,
) -> tuple[GatewayLife, Reload]:
    """The gateway's one running object, and what a SIGHUP does to it. Without a store a restart
    forgets the nodes."""
    random = SystemRandom()
    registry = Registry(reactor, settings.nodes.announce)
    upstream = Upstream(reactor)
    records = Records(reactor, time.time)
    memory = Memory()
    registry.on_gone.append(memory.forget)
    registry.on_down.append(memory.forget)
    admission = Admission(reactor, registry, random)
    progress = Progress(reactor, registry, upstream, lambda id: dispatch.bytes_at(id))
    attempt = Attempt(reactor, upstream, progress)
    dispatch = Dispatch(reactor, registry, admission, attempt, memory)
    keys = _gatekeeper(reactor, settings)
    book = RoleBook(settings.roles, settings.unknown_model, settings.default_role)
    store = store or MemoryStore()
    keeper = Keeper(
        reactor,
        store,
        lambda kept: nodes.restore(kept, store.shared),
        lambda node: nodes.drop(node),
    )
    nodes = NodeApi(
        registry,
        keys,
        book,
        _address_policy(settings, endpoints),
        settings.nodes.announce,
        lambda host: _resolve(reactor, host),
        keeper,
        time.time,
    )
    clients = ClientApi(
        reactor,
        keys,
        book,
        registry,
        admission,
        dispatch,
        Delivery(reactor, registry, records, dispatch, memory),
        records,
        memory,
        int(time.time()),
        keeper,
    )
    orders = Orders(reactor)
    operators = OperatorApi(reactor, keys, registry, orders)
    registry.set_static(static_backends(settings.roles.values()))
    site = build_site(
        Front(clients.app.resource(), nodes.app.resource(), operators.app.resource()),
        reactor,
        lambda: uuid4().hex,
        _limits(),
        _refused_at_the_edge,
        lambda request: _screen(request, keys),
    )
    listening = Listening(reactor, endpoints, site)
    checks = Checks(reactor, registry, upstream, random.random)
    life = GatewayLife(
        reactor,
        listening,
        site,
        (checks, progress, orders),
        upstream,
        clients,
        keeper,
        settings.drain,
    )
    return life, Reload(path, registry, clients, nodes, life)


def _gatekeeper(reactor: Any, settings: GatewaySettings) -> Gatekeeper:
    keys = Gatekeeper(reactor, settings.keys, settings.nodes.tokens)
    try:
        keys.load()
    except ConfigError as error:
        refuse(map(str, error.problems))
    return keys


def _address_policy(settings: GatewaySettings, endpoints: Sequence[str]) -> AddressPolicy:
    networks = tuple(read_network(text) for text in settings.nodes.allowed_networks)
    return AddressPolicy(networks, allow_loopback=loopback_only(endpoints))


def _resolve(reactor: Any, host: str) -> Deferred[list[str]]:
    def look_up() -> list[str]:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return [str(address[0]) for *_, address in found]

    return deferToThreadPool(reactor, reactor.getThreadPool(), look_up)


def _limits() -> Limits:
    """Connections as far as this process may have descriptors, of which each request takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    room = (soft - OWN_DESCRIPTORS) // 2 if soft > 0 else CONNECTIONS
    return Limits(
        body_bytes=LONGEST_BODY,
        connections=max(1, min(CONNECTIONS, room)),
        address_connections=max(1, min(CONNECTIONS // 2, room)),
    )


def _screen(request: EdgeRequest, keys: Gatekeeper) -> None:
    """Refuse a client without a good key, and too long a report, before the body is read."""
    if request.path in _CLIENT_PATHS or request.path.startswith(b"/v1/roles/"):
        keys.client(request)
    if request.path.startswith(b"/v1/nodes/"):
        refuse_long_report(request)


def _refused_at_the_edge(refusal: Refusal, request_id: str, address: str) -> None:
    _log.info(
        "refused before it was a request: {code}",
        code=refusal.code,
        **{
            "http.request.id": request_id,
            "http.response.status_code": refusal.status,
            "client.address": address,
            "error.code": refusal.code,
        },
    )
