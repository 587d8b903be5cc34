"""`twistd rolemesh-node`: the only place where the node's objects meet."""

import os
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.application.service import MultiService
from twisted.logger import Logger
from twisted.web.client import Agent as HttpAgent
from twisted.web.client import BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.iweb import IPolicyForHTTPS

from rolemesh.config.node import NodeSettings, OnExit, Run, load_node
from rolemesh.config.problems import ConfigError
from rolemesh.core.local import SOCKET
from rolemesh.core.report import Accepted, Registration
from rolemesh.core.vigil import Patience
from rolemesh.lag import LagWatch
from rolemesh.node.address import OwnAddress
from rolemesh.node.agent import Agent, Servers
from rolemesh.node.aside import Aside
from rolemesh.node.book import Book
from rolemesh.node.calls import Caller
from rolemesh.node.command_stream import CommandStream
from rolemesh.node.commands import Operator
from rolemesh.node.drains import Drains
from rolemesh.node.gpu import Gpus
from rolemesh.node.hostmeter import HostMeter
from rolemesh.node.identity import Records, instance_of
from rolemesh.node.keeping import Keeping
from rolemesh.node.link import Link
from rolemesh.node.local import LocalSocket
from rolemesh.node.machine import Machine
from rolemesh.node.means import Means
from rolemesh.node.orders import Orders
from rolemesh.node.past import Past
from rolemesh.node.probe import Probe
from rolemesh.node.reaper import Reaper
from rolemesh.node.reporter import Contact, Reporter
from rolemesh.node.slumber import Slumber
from rolemesh.node.snapshot import Snapshots
from rolemesh.node.status import node_status
from rolemesh.node.supervisor import Server
from rolemesh.service.exits import refuse
from rolemesh.service.options import ServiceOptions
from rolemesh.service.signals import Signals
from rolemesh.service.tuning import keep_steady
from rolemesh.systemd import Systemd
from rolemesh.tls.client import ClientSide, PlainSpokenAgent
from rolemesh.tls.ending import Endings
from rolemesh.tls.fresh import TlsProblem

CONNECT, EXCHANGE = 2.0, 5.0  # seconds, for a gateway
PATIENCE = Patience()

_log = Logger()


class Options(ServiceOptions):
    """The node agent's command line."""

    config_file = "node_agent.yaml"
    config_variable = "ROLE_MESH_NODE_CONFIG"

    def load(self, path: Path) -> NodeSettings:
        return load_node(path, os.environ, patient=True)


def makeService(options: Options) -> MultiService:
    """The agent under twistd, with its signals."""
    from twisted.internet import reactor

    keep_steady(reactor)
    systemd = Systemd(reactor, os.environ, os.getpid())
    agent = node_service(reactor, options.settings, options.state_dir)
    _tell_warnings(options.settings)
    service = MultiService()
    signals = Signals(reactor, partial(_reload, options, agent), agent.kill, systemd)
    for part in (systemd, signals, LagWatch(reactor), agent):
        part.setServiceParent(service)
    reactor.callWhenRunning(systemd.ready)  # its servers may load for half an hour from now on
    return service


def node_service(reactor: Any, settings: NodeSettings, state: Path) -> Agent:
    """The agent, made of its parts; nothing runs before it is started.

    `state` is the folder of what must survive it; no other agent may have the same one.
    """
    gpus = Gpus(reactor, reactor, os.environ)
    past = _past(reactor, settings, state)
    machine = Machine(reactor, reactor, settings.ports, gpus, os.environ, past, Aside(reactor))
    means = _means(reactor, settings, machine)
    address = OwnAddress(settings.gateways, settings.advertise, reactor, reactor.resolve)
    drains = Drains(state / "drains.json", past.aside, reactor, time.time)
    drains.load()
    servers = Servers(
        lambda run: Server(run, means, reporter.changed), machine, past, address, gpus
    )
    operator = Operator(settings.name, servers, drains, lambda: reporter.changed())
    instance = secrets.token_hex(8)
    snapshot = _snapshot(reactor, settings, instance, servers, gpus, drains)
    endings = Endings(reactor, time.time)
    https = _client_side(reactor, settings, endings)
    reporter = Reporter(
        settings.name,
        settings.gateways,
        _contacts(reactor, settings, https, instance, snapshot, operator),
        reactor,
        Book(state / "gateways.json", settings.gateways, past.aside, reactor),
        lambda: past.keeping is None or servers.settled(),
    )
    status = node_status(settings.name, servers, past, gpus, reporter, drains, endings)
    hearing = (LocalSocket(reactor, state / SOCKET, status), Reaper(reactor))
    return Agent(settings.run, servers, gpus, reporter, hearing)


def _snapshot(
    reactor: Any,
    settings: NodeSettings,
    instance: str,
    servers: Servers,
    gpus: Gpus,
    drains: Drains,
) -> Callable[[], Registration]:
    """What is told; a machine that slept is looked at first."""
    meter, began = HostMeter(reactor), int(time.time() * 1000)
    snapshots = Snapshots(settings.name, instance, settings.labels, meter, drains.of, began)
    slumber = Slumber(servers.woke)

    def snapshot() -> Registration:
        slumber.look()
        return snapshots.take(servers.running, gpus.sample)

    return snapshot


def _past(reactor: Any, settings: NodeSettings, state: Path) -> Past:
    aside, records, instance = Aside(reactor), Records(state / "servers"), instance_of(state)
    keep = settings.on_exit is OnExit.KEEP
    keeping = Keeping(reactor, records, aside) if keep else None
    return Past(reactor, aside, records, instance, keeping)


def _means(reactor: Any, settings: NodeSettings, machine: Machine) -> Means:
    health = settings.health
    caller = Caller(_http(reactor, health.timeout), reactor, health.timeout)
    return Means(
        clock=reactor,
        ground=machine,
        probe=Probe(caller, reactor, health),
        restart=settings.restart,
        grace=settings.stop,
        random=random.random,
        patience=PATIENCE,
    )


def _contacts(
    reactor: Any,
    settings: NodeSettings,
    https: ClientSide,
    instance: str,
    snapshot: Callable[[], Registration],
    operator: Operator,
) -> Callable[[str, Callable[[Accepted], None]], Contact]:
    """What makes the contact to a gateway."""
    http = PlainSpokenAgent(_http(reactor, CONNECT, https))
    caller = Caller(http, reactor, EXCHANGE)
    token, chance = settings.token, random.random

    def contact(url: str, heard: Callable[[Accepted], None]) -> Contact:
        path = f"{url.rstrip('/')}/v1/nodes/{settings.name}"
        orders = Orders(path, token, caller, reactor, operator, chance)
        return Contact(
            Link(url, token, caller, reactor, snapshot, chance, heard),
            CommandStream(path, instance, token, http, reactor, orders, chance),
        )

    return contact


def _client_side(reactor: Any, settings: NodeSettings, endings: Endings) -> ClientSide:
    """How gateways are known."""
    side = ClientSide(reactor, settings.tls, endings)
    try:
        side.load()
    except TlsProblem as problem:
        refuse([f"tls: {problem}"])
    return side


def _http(reactor: Any, connect: float, https: IPolicyForHTTPS | None = None) -> HttpAgent:
    """Without kept connections: a server that was restarted would fail the first use of one."""
    pool = HTTPConnectionPool(reactor, False)
    return HttpAgent(reactor, https or BrowserLikePolicyForHTTPS(), connect, pool=pool)


def _reload(options: Options, agent: Agent) -> None:
    """Run what the file names now; a file with problems changes nothing."""
    try:
        settings = options.load(options.config_path)
    except (ConfigError, OSError) as problem:
        _log.error("not reloaded: {problem}", problem=problem)
        return
    _tell_warnings(settings)
    lost = _absent_replacements(options.settings.run, settings.run)
    if lost:
        _log.error("not reloaded: {ids} would stop for what is not there", ids=", ".join(lost))
        return
    if evolve(settings, run=()) != evolve(options.settings, run=()):
        _log.warn("of the file only `run` is reloaded; the rest holds from the next start on")
    options.settings = evolve(options.settings, run=settings.run)
    _log.info("reloaded: {count} entries of `run`", count=len(settings.run))
    agent.run(settings.run)


def _absent_replacements(before: Sequence[Run], after: Sequence[Run]) -> list[str]:
    """The ids of entries that could not begin again; one that is new may wait for its file."""
    ids = {run.id for run in before}
    return [run.id for run in after if run.absent and run.id in ids and run not in before]


def _tell_warnings(settings: NodeSettings) -> None:
    for warning in settings.warnings:
        _log.warn("{problem}", problem=warning)
