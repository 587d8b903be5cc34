"""A new configuration in place of the old: whole, or not at all."""

import os
from pathlib import Path

from twisted.logger import Logger

from rolemesh.config.gateway import load_gateway
from rolemesh.config.problems import ConfigError
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.acceptance import Acceptance
from rolemesh.gateway.doors import Doors
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.statics import static_backends
from rolemesh.gateway.web import ClientApi


class Reload:
    """Reads the file again when called. What listens, and which key files are used, stays."""

    log = Logger()

    def __init__(
        self,
        path: Path,
        registry: Registry,
        clients: ClientApi,
        acceptance: Acceptance,
        life: GatewayLife,
        doors: Doors,
    ) -> None:
        self._path = path
        self._registry = registry
        self._clients = clients
        self._acceptance = acceptance
        self._life = life
        self._doors = doors

    def __call__(self) -> None:
        """Read certificates again; take the file's roles over, or say what is wrong with it and
        change nothing."""
        self._doors.reload()
        try:
            settings = load_gateway(self._path, os.environ)
        except ConfigError as error:
            for problem in error.problems:
                self.log.error("not reloaded: {problem}", problem=str(problem))
            return
        book = RoleBook(settings.roles, settings.unknown_model, settings.default_role)
        self._clients.catalogue.roles = self._acceptance.roles = book
        self._life.drain = settings.drain
        self._registry.set_static(static_backends(settings.roles.values()))
        self.log.info("reloaded: {count} roles", count=len(settings.roles))
