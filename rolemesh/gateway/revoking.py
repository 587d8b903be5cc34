"""Nodes whose token was revoked, or is over, while they are here."""

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rolemesh.core.errors import Refusal
from rolemesh.gateway.fleet import Fleet, Node
from rolemesh.gateway.keys import Gatekeeper

EVERY = 1.0  # seconds


class Revoking(Service):
    """Lets go of a node once the token by which it came opens nothing any more: it gets no new
    requests, and what it answers it may finish. While tokens cannot be read, nobody is let go."""

    log = Logger()

    def __init__(self, clock: IReactorTime, fleet: Fleet, keys: Gatekeeper) -> None:
        self._fleet = fleet
        self._keys = keys
        self._loop = LoopingCall(self._look)
        self._loop.clock = clock

    def startService(self) -> None:
        super().startService()
        self._loop.start(EVERY, now=False)

    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()

    def _look(self) -> None:
        for node in self._fleet:
            if self._is_revoked(node):
                self._fleet.deregister(node.name)
                self.log.warn(
                    "{node} is let go: its token is no longer valid",
                    node=node.name,
                    **{"rolemesh.node": node.name},
                )

    def _is_revoked(self, node: Node) -> bool:
        try:
            self._keys.token(node.token, node.name)
        except Refusal as refusal:
            return refusal.code == "invalid_api_key"
        return False
