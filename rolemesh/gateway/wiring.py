"""The only place where the gateway's objects meet."""

import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from uuid import uuid4

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from rolemesh.config.exposure import loopback_only
from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.keybook import FileBook, KeyBook
from rolemesh.config.listeners import Listener
from rolemesh.config.problems import ConfigError
from rolemesh.core.addresses import Address, AddressPolicy, read_network
from rolemesh.core.affinity import Memory
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.acceptance import Acceptance
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
from rolemesh.gateway.edge import EdgeChannel
from rolemesh.gateway.edge_site import EdgeSite
from rolemesh.gateway.failures import Failures
from rolemesh.gateway.fleet import Fleet
from rolemesh.gateway.front import Front
from rolemesh.gateway.health import Checks
from rolemesh.gateway.hosts import Hosts
from rolemesh.gateway.joins import JoinApi
from rolemesh.gateway.keys import Gatekeeper
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
from rolemesh.gateway.store.interface import Store
from rolemesh.gateway.store.keeper import Keeper
from rolemesh.gateway.store.key_shelf import KeyShelf
from rolemesh.gateway.store.memory import MemoryStore
from rolemesh.gateway.tidying import Tidying
from rolemesh.gateway.under_way import UnderWay
from rolemesh.gateway.upstream import Upstream
from rolemesh.gateway.usage import Ledger
from rolemesh.gateway.web import ClientApi
from rolemesh.service.exits import refuse
from rolemesh.service.listening import Listening
from rolemesh.tls.ending import Endings
from rolemesh.tls.fresh import TlsProblem

T = TypeVar("T")


@frozen(eq=False)
class _Ground:
    """What all parts stand on."""

    reactor: Any
    settings: GatewaySettings
    registry: Registry
    fleet: Fleet
    upstream: Upstream
    store: Store
    keys: Gatekeeper
    book: RoleBook
    endings: Endings


@frozen(eq=False)
class _Traffic:
    """What brings requests to backends."""

    memory: Memory
    admission: Admission
    progress: Progress
    dispatch: Dispatch


@frozen(eq=False)
class _Nodes:
    """What nodes talk to, and what remembers them."""

    keeper: Keeper
    company: Company
    acceptance: Acceptance
    api: NodeApi


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
    ground = _ground(reactor, settings, store or MemoryStore(), shelf or KeyShelf())
    registry, upstream = ground.registry, ground.upstream
    traffic = _traffic(ground)
    policy = _address_policy(settings, listeners)
    nodes = _nodes(ground, policy, lambda host, port: is_own(host, port, listening.ports))
    clients, ledger = _clients(ground, traffic, nodes.keeper)
    registry.set_static(static_backends(settings.roles.values()))
    orders, pressure = Orders(reactor), Pressure(reactor, settings.memory_max)
    site = _site(ground, clients, nodes.api, orders, pressure)
    doors = _doors(ground, listeners)
    listening = Listening(reactor, doors.into(site))
    watchers = (
        ground.fleet,
        Checks(reactor, registry, upstream, Random().random),
        traffic.progress,
        orders,
        pressure,
        nodes.company,
        Revoking(reactor, ground.fleet, ground.keys),
    )
    life = GatewayLife(
        reactor, listening, site, watchers, upstream, clients, nodes.keeper, ledger, settings.drain
    )
    return life, Reload(path, registry, clients, nodes.acceptance, life, doors)


def _ground(reactor: Any, settings: GatewaySettings, store: Store, shelf: KeyShelf) -> _Ground:
    registry = Registry(reactor, settings.nodes.announce)
    return _Ground(
        reactor,
        settings,
        registry,
        Fleet(reactor, registry),
        Upstream(reactor),
        store,
        _gatekeeper(reactor, settings, shelf),
        RoleBook(settings.roles, settings.unknown_model, settings.default_role),
        Endings(reactor, time.time),
    )


def _traffic(ground: _Ground) -> _Traffic:
    reactor, registry, upstream = ground.reactor, ground.registry, ground.upstream
    memory = Memory()
    registry.on_gone.append(memory.forget)
    registry.on_down.append(memory.forget)
    admission = Admission(reactor, registry, Random())
    progress = Progress(reactor, registry, upstream, lambda id: dispatch.events_at(id))
    attempt = Attempt(reactor, upstream, progress)
    dispatch = Dispatch(reactor, registry, admission, attempt, memory)
    return _Traffic(memory, admission, progress, dispatch)


def _nodes(
    ground: _Ground, policy: AddressPolicy, is_own: Callable[[Address, int], bool]
) -> _Nodes:
    reactor, fleet, store, told = ground.reactor, ground.fleet, ground.store, ground.settings.nodes
    keeper = Keeper(
        reactor,
        store,
        lambda kept: api.restore(kept, store.shared),
        lambda node: api.drop(node),
    )
    tidying = Tidying(fleet, keeper, store, time.time, keeper.lost)
    company = Company(reactor, store, uuid4().hex, told.advertise, tidying.do)
    acceptance = Acceptance(
        ground.book, policy, told.announce, lambda host: _resolve(reactor, host), is_own
    )
    api = NodeApi(
        fleet,
        ground.registry,
        ground.keys,
        acceptance,
        keeper,
        time.time,
        company,
        RegistrationPace(reactor),
        ground.endings,
    )
    return _Nodes(keeper, company, acceptance, api)


def _clients(ground: _Ground, traffic: _Traffic, keeper: Keeper) -> tuple[ClientApi, Ledger]:
    reactor, registry, memory = ground.reactor, ground.registry, traffic.memory
    records = Records(reactor, time.time)
    catalogue = Catalogue(registry, ground.book, int(time.time()))
    limits = KeyLimits(reactor, time.time, lambda key: ledger.tokens(key))
    ledger = Ledger(reactor, time.time, ground.store, keeper.lost, limits.elsewhere)
    api = ClientApi(
        reactor,
        ground.keys,
        catalogue,
        Asking(reactor, catalogue, registry, memory),
        traffic.admission,
        traffic.dispatch,
        Delivery(reactor, registry, records, traffic.dispatch, memory),
        records,
        keeper,
        limits,
        ledger,
        UnderWay(reactor),
        lambda: ground.endings.soon(ground.fleet.get),
    )
    return api, ledger


def _site(
    ground: _Ground, clients: ClientApi, nodes: NodeApi, orders: Orders, pressure: Pressure
) -> EdgeSite:
    reactor, settings, keys = ground.reactor, ground.settings, ground.keys
    operators = OperatorApi(reactor, keys, ground.registry, ground.fleet, orders)
    hosts = Hosts(settings.allowed_hosts, keyless=settings.keys is None)
    return EdgeSite(
        EdgeChannel,
        Front(
            clients.app.resource(),
            nodes.app.resource(),
            operators.app.resource(),
            _joins(reactor, settings, keys).app.resource(),
        ),
        reactor,
        limits_of_process(),
        lambda: uuid4().hex,
        RefusalLog(reactor),
        Screen(keys, pressure, hosts),
    )


def _doors(ground: _Ground, listeners: Sequence[Listener]) -> Doors:
    doors = Doors(ground.reactor, listeners, ground.endings)
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
