"""`twistd rolemesh-gateway`: the only place where the gateway's objects meet."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar
from uuid import uuid4

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from rolemesh.config.exposure import exposed, loopback_only
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.keybook import FileBook, KeyBook
from rolemesh.config.listeners import Listener
from rolemesh.config.problems import ConfigError
from rolemesh.core.addresses import AddressPolicy, read_network
from rolemesh.core.affinity import Memory
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.admin import OperatorApi
from rolemesh.gateway.admission import Admission
from rolemesh.gateway.asking import Asking
from rolemesh.gateway.attempt import Attempt
from rolemesh.gateway.catalogue import Catalogue
from rolemesh.gateway.commands import Orders
from rolemesh.gateway.company import Company
from rolemesh.gateway.delivery import Delivery
from rolemesh.gateway.dispatch import Dispatch
from rolemesh.gateway.doors import Doors
from rolemesh.gateway.edge import build_site
from rolemesh.gateway.front import Front
from rolemesh.gateway.health import Checks
from rolemesh.gateway.hosts import Hosts
from rolemesh.gateway.joins import JoinApi
from rolemesh.gateway.keys import Failures, Gatekeeper
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.limits import KeyLimits
from rolemesh.gateway.listening import is_own
from rolemesh.gateway.nodes import NodeApi
from rolemesh.gateway.pressure import Pressure
from rolemesh.gateway.progress import Progress
from rolemesh.gateway.records import Records
from rolemesh.gateway.refusals import RefusalLog
from rolemesh.gateway.registrations import RegistrationPace
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.reload import Reload
from rolemesh.gateway.revoking import Revoking
from rolemesh.gateway.room import limits as limits_of_process
from rolemesh.gateway.screen import Screen
from rolemesh.gateway.statics import static_backends
from rolemesh.gateway.store.interface import NewerSchema, Prepared, Store, StoreFailed
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.store.key_shelf import KeyShelf
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.store.sqlite import SqliteStore
from rolemesh.gateway.tidying import Tidying
from rolemesh.gateway.under_way import UnderWay
from rolemesh.gateway.upstream import Upstream
from rolemesh.gateway.usage import Ledger
from rolemesh.gateway.web import ClientApi
from rolemesh.lag import LagWatch
from rolemesh.service import Listening, ServiceOptions, Signals, collect_less, keep_steady, refuse
from rolemesh.systemd import Systemd
from rolemesh.tls.fresh import TlsProblem

T = TypeVar("T")


class Options(ServiceOptions):
    """`twistd rolemesh-gateway`."""

    config_file = "models.yaml"
    config_variable = "ROLE_MESH_CONFIG"

    listeners: tuple[Listener, ...]

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
        self.listeners = tuple(map(Listener, self.endpoints)) or self.settings.listen
        problems = list(exposed(self.settings, self.listeners, self.config_path))
        if problems:
            refuse(problems)


def makeService(options: Options) -> MultiService:
    """The gateway as twistd runs it."""
    from twisted.internet import reactor  # importing it earlier would choose it for everybody

    keep_steady(reactor)
    shelf = KeyShelf()
    if options.settings.store is None:
        store: Prepared = SqliteStore(reactor, options.state_dir / "state.db", time.time)
    else:
        store = _postgres(reactor, options.settings.store, shelf)
    try:
        with suppress(StoreFailed):  # it is tried again while the gateway runs
            store.prepare()
    except NewerSchema as error:
        refuse([str(error)])
    service = gateway_service(
        reactor, options.settings, options.config_path, options.listeners, store, shelf
    )
    collect_less()
    return service


def _postgres(reactor: Any, url: str, shelf: KeyShelf) -> Prepared:
    try:
        from psycopg import ProgrammingError

        from rolemesh.gateway.store.postgres import PostgresStore
    except ImportError:
        refuse(["gateway.store is a database, which takes: pip install 'rolemesh[postgres]'"])
    try:
        return PostgresStore(reactor, url, shelf)
    except ProgrammingError:
        refuse(["gateway.store is no URL of a database: write postgresql://USER@HOST:PORT/NAME"])


def gateway_service(
    reactor: Any,
    settings: GatewaySettings,
    path: Path,
    listeners: Sequence[Listener],
    store: Store,
    shelf: KeyShelf,
) -> MultiService:
    """A gateway with all of its objects, not yet listening."""
    life, reload = build(reactor, settings, path, listeners, store, shelf)
    systemd = Systemd(reactor, os.environ, os.getpid())
    life.listening.on_open.append(systemd.ready)
    service = MultiService()
    for part in (systemd, Signals(reactor, reload, life.hurry, systemd), LagWatch(reactor), life):
        part.setServiceParent(service)
    return service


def build(
    reactor: Any,
    settings: GatewaySettings,
    path: Path,
    listeners: Sequence[Listener],
    store: Store | None = None,
    shelf: KeyShelf | None = None,
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
    keys = _gatekeeper(reactor, settings, shelf or KeyShelf())
    book = RoleBook(settings.roles, settings.unknown_model, settings.default_role)
    store = store or MemoryStore()
    keeper = Keeper(
        reactor,
        store,
        lambda kept: nodes.restore(kept, store.shared),
        lambda node: nodes.drop(node),
    )
    tidying = Tidying(registry, keeper, store, time.time, keeper.lost)
    company = Company(reactor, store, uuid4().hex, settings.nodes.advertise, tidying.do)
    nodes = NodeApi(
        registry,
        keys,
        book,
        _address_policy(settings, listeners),
        settings.nodes.announce,
        lambda host: _resolve(reactor, host),
        keeper,
        time.time,
        company,
        RegistrationPace(reactor),
        lambda address, port: is_own(address, port, listening.ports),
    )
    catalogue = Catalogue(registry, book, int(time.time()))
    limits = KeyLimits(reactor, time.time, lambda key: ledger.tokens(key))
    ledger = Ledger(reactor, time.time, store, keeper.lost, limits.elsewhere)
    clients = ClientApi(
        reactor,
        keys,
        catalogue,
        Asking(reactor, catalogue, registry, memory),
        admission,
        dispatch,
        Delivery(reactor, registry, records, dispatch, memory),
        records,
        keeper,
        limits,
        ledger,
        UnderWay(reactor),
    )
    orders = Orders(reactor)
    operators = OperatorApi(reactor, keys, registry, orders)
    registry.set_static(static_backends(settings.roles.values()))
    pressure = Pressure(reactor, settings.memory_max)
    hosts = Hosts(settings.allowed_hosts, keyless=settings.keys is None)
    site = build_site(
        Front(
            clients.app.resource(),
            nodes.app.resource(),
            operators.app.resource(),
            _joins(reactor, settings, keys).app.resource(),
        ),
        reactor,
        lambda: uuid4().hex,
        limits_of_process(),
        RefusalLog(reactor),
        Screen(keys, pressure, hosts),
    )
    doors = _doors(reactor, listeners)
    listening = Listening(reactor, doors.into(site))
    checks = Checks(reactor, registry, upstream, random.random)
    life = GatewayLife(
        reactor,
        listening,
        site,
        (checks, progress, orders, pressure, company, Revoking(reactor, registry, keys)),
        upstream,
        clients,
        keeper,
        ledger,
        settings.drain,
    )
    return life, Reload(path, registry, clients, nodes, life, doors)


def _doors(reactor: Any, listeners: Sequence[Listener]) -> Doors:
    doors = Doors(reactor, listeners, time.time)
    try:
        doors.load()
    except TlsProblem as problem:
        refuse([f"gateway.listen: {problem}"])
    return doors


def _gatekeeper(reactor: Any, settings: GatewaySettings, shelf: KeyShelf) -> Gatekeeper:
    keys, tokens = (
        shelf if place == "store" else place for place in (settings.keys, settings.nodes.tokens)
    )
    gatekeeper = Gatekeeper(reactor, keys, tokens)
    try:
        gatekeeper.load()
    except ConfigError as error:
        refuse(map(str, error.problems))
    return gatekeeper


def _joins(reactor: Any, settings: GatewaySettings, keys: Gatekeeper) -> JoinApi:
    def aside(act: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), act)

    book = _token_book(settings)
    return JoinApi(book, keys.may_be_invite, aside, Failures(reactor), time.time)


def _token_book(settings: GatewaySettings) -> KeyBook | None:
    place = settings.nodes.tokens
    if place != "store":
        return FileBook(place) if place else None
    from rolemesh.gateway.store.postgres_server import PostgresServer  # they take the driver
    from rolemesh.gateway.store.storebook import StoreBook

    return StoreBook(PostgresServer(settings.store or ""))


def _address_policy(settings: GatewaySettings, listeners: Sequence[Listener]) -> AddressPolicy:
    networks = tuple(read_network(text) for text in settings.nodes.allowed_networks)
    at_home = loopback_only(each.endpoint for each in listeners)
    return AddressPolicy(networks, allow_loopback=at_home)


def _resolve(reactor: Any, host: str) -> Deferred[list[str]]:
    def look_up() -> list[str]:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError:
            return []
        return [str(address[0]) for *_, address in found]

    return deferToThreadPool(reactor, reactor.getThreadPool(), look_up)
