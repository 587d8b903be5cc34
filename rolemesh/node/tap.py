"""`twistd rolemesh-node`: the only place where the node's objects meet."""

import os
import random
import secrets
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.application.service import MultiService
from twisted.logger import Logger
from twisted.web.client import Agent as HttpAgent
from twisted.web.client import HTTPConnectionPool

from rolemesh.config.node import NodeSettings, load_node
from rolemesh.config.problems import ConfigError
from rolemesh.core.local import SOCKET
from rolemesh.core.report import Registration
from rolemesh.core.vigil import Patience
from rolemesh.node.address import OwnAddress
from rolemesh.node.agent import Agent, Servers
from rolemesh.node.aside import Aside
from rolemesh.node.calls import Caller
from rolemesh.node.command_stream import CommandStream
from rolemesh.node.commands import Operator
from rolemesh.node.drains import Drains
from rolemesh.node.gpu import Gpus
from rolemesh.node.hostmeter import HostMeter
from rolemesh.node.identity import Records, instance_of
from rolemesh.node.local import LocalSocket
from rolemesh.node.machine import Machine, Past
from rolemesh.node.means import Means
from rolemesh.node.probe import Probe
from rolemesh.node.reporter import Link, Reporter
from rolemesh.node.snapshot import Snapshots
from rolemesh.node.status import node_status
from rolemesh.node.supervisor import Server
from rolemesh.node.survivors import Survivors
from rolemesh.service import ServiceOptions, Signals, keep_steady

CONNECT, EXCHANGE = 2.0, 5.0  # seconds, for a gateway
PATIENCE = Patience()

_log = Logger()


class Options(ServiceOptions):
    """The node agent's command line."""

    config_file = "node_agent.yaml"
    config_variable = "ROLE_MESH_NODE_CONFIG"

    def load(self, path: Path) -> NodeSettings:
        return load_node(path, os.environ)


def makeService(options: Options) -> MultiService:
    """The agent under twistd, with its signals."""
    from twisted.internet import reactor

    keep_steady(reactor)
    agent = node_service(reactor, options.settings, options.state_dir)
    _tell_warnings(options.settings)
    service = MultiService()
    Signals(reactor, partial(_reload, options, agent), agent.kill).setServiceParent(service)
    agent.setServiceParent(service)
    return service


def node_service(reactor: Any, settings: NodeSettings, state: Path) -> Agent:
    """The agent, made of its parts; nothing runs before it is started.

    `state` is the folder of what must survive it; no other agent may have the same one.
    """
    gpus = Gpus(reactor, reactor, os.environ)
    past = _past(reactor, state)
    machine = Machine(reactor, reactor, settings.ports, gpus, os.environ, past, Aside(reactor))
    means = _means(reactor, settings, machine)
    address = OwnAddress(settings.gateways, settings.advertise, reactor, reactor.resolve)
    drains = Drains(state / "drains.json", past.aside, reactor, time.time)
    drains.load()
    instance = secrets.token_hex(8)
    meter = HostMeter(reactor)
    began = int(time.time() * 1000)
    snapshots = Snapshots(settings.name, instance, settings.labels, meter, drains.of, began)
    reporter = Reporter(
        _links(reactor, settings, lambda: snapshots.take(servers.running, gpus.sample)),
        settings.name,
    )
    servers = Servers(lambda run: Server(run, means, reporter.changed), machine, address, gpus)
    operator = Operator(settings.name, servers, drains, reporter.changed)
    status = node_status(settings.name, servers, gpus, reporter, drains)
    hearing = (
        *_command_streams(reactor, settings, instance, operator),
        LocalSocket(reactor, state / SOCKET, status),
    )
    return Agent(settings.run, servers, gpus, reporter, hearing)


def _past(reactor: Any, state: Path) -> Past:
    records, instance = Records(state / "servers"), instance_of(state)
    return Past(Aside(reactor), records, Survivors(records, instance), instance)


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


def _links(
    reactor: Any, settings: NodeSettings, snapshot: Callable[[], Registration]
) -> list[Link]:
    caller = Caller(_http(reactor, CONNECT), reactor, EXCHANGE)
    return [
        Link(url, settings.token, caller, reactor, snapshot, random.random)
        for url in settings.gateways
    ]


def _command_streams(
    reactor: Any, settings: NodeSettings, instance: str, operator: Operator
) -> list[CommandStream]:
    http = _http(reactor, CONNECT)
    caller = Caller(http, reactor, EXCHANGE)
    paths = [f"{url.rstrip('/')}/v1/nodes/{settings.name}" for url in settings.gateways]
    token = settings.token
    return [
        CommandStream(path, instance, token, http, caller, reactor, operator, random.random)
        for path in paths
    ]


def _http(reactor: Any, connect: float) -> HttpAgent:
    """Without kept connections: a server that was restarted would fail the first use of one."""
    return HttpAgent(reactor, connectTimeout=connect, pool=HTTPConnectionPool(reactor, False))


def _reload(options: Options, agent: Agent) -> None:
    """Run what the file names now; a file with problems changes nothing."""
    try:
        settings = options.load(options.config_path)
    except (ConfigError, OSError) as problem:
        _log.error("not reloaded: {problem}", problem=problem)
        return
    _tell_warnings(settings)
    if evolve(settings, run=()) != evolve(options.settings, run=()):
        _log.warn("of the file only `run` is reloaded; the rest holds from the next start on")
    options.settings = evolve(options.settings, run=settings.run)
    _log.info("reloaded: {count} entries of `run`", count=len(settings.run))
    agent.run(settings.run)


def _tell_warnings(settings: NodeSettings) -> None:
    for warning in settings.warnings:
        _log.warn("{warning}", warning=warning)
