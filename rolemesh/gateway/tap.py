"""`twistd rolemesh-gateway`: its command line, its store, and the service that runs."""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.application.service import MultiService

from rolemesh.config.exposure import exposed
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.listeners import Listener
from rolemesh.gateway.store.interface import NewerSchema, Prepared, Store, StoreFailed
from rolemesh.gateway.store.key_shelf import KeyShelf
from rolemesh.gateway.store.sqlite import SqliteStore
from rolemesh.gateway.wiring import build
from rolemesh.lag import LagWatch
from rolemesh.service.exits import refuse
from rolemesh.service.options import ServiceOptions
from rolemesh.service.signals import Signals
from rolemesh.service.tuning import collect_less, keep_steady
from rolemesh.systemd import Systemd


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
