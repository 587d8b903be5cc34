"""The machines that registered: who speaks in the name of each, and how long it is believed."""

from collections.abc import Iterable, Iterator, Mapping

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from rolemesh.core.errors import Refusal
from rolemesh.core.health import Condition
from rolemesh.core.model import Backend, BackendId
from rolemesh.core.report import GpuReport, HostReport, Registration
from rolemesh.gateway.registry import Registry

LEASE = 15.0
HEARTBEAT = 5.0
FORGET = 600.0
TICK = 1.0


@define(eq=False)
class Node:
    """One machine that registered, by the token of that id if there are tokens. `until` ends its
    lease, None where checks are the lease.

    `heard` is False while all we know of it is from an earlier life of the gateway.
    """

    name: str
    plain: bool
    token: str | None = None
    instance: str = ""
    generation: int = 0
    until: float | None = None
    labels: Mapping[str, str] = field(factory=dict)
    gpus: tuple[GpuReport, ...] = ()
    host: HostReport | None = None
    version: str = ""
    backends: tuple[BackendId, ...] = ()
    heard: bool = True

    def speaks(self, now: float) -> bool:
        """Whether its agent has told something here, and will be believed for a while."""
        return self.heard and self.until is not None and now < self.until

    def has_told_more(self, registration: Registration) -> bool:
        """Whether a registration is older than what it has said already."""
        same = self.instance == registration.instance
        return same and registration.generation < self.generation

    def refuse_another(self, registration: Registration, now: float) -> None:
        """Let no other agent of its name speak while its own is alive.

        :raises Refusal: node_id_conflict.
        """
        if self.instance == registration.instance or not self.speaks(now):
            return
        if registration.generation <= self.generation:
            raise Refusal(
                "node_id_conflict",
                f"A node named '{self.name}' is registered and alive, by another agent. "
                "Give each machine its own `name`.",
                param="node",
            )


class Fleet(Service):
    """Nodes by name; what they say of their backends goes on to the registry. While it runs,
    leases end on the clock, and who has been silent for long is forgotten."""

    def __init__(self, clock: IReactorTime, registry: Registry) -> None:
        self._clock = clock
        self._registry = registry
        self._nodes: dict[str, Node] = {}
        self._loop = LoopingCall(self.tick)
        self._loop.clock = clock

    def startService(self) -> None:
        super().startService()
        self._loop.start(TICK)

    def stopService(self) -> None:
        super().stopService()
        self._loop.stop()

    def __iter__(self) -> Iterator[Node]:
        return iter(tuple(self._nodes.values()))

    def get(self, name: str) -> Node | None:
        return self._nodes.get(name)

    def lives(self, name: str) -> bool:
        """Whether a node speaks, or one of its backends answers."""
        node = self._nodes.get(name)
        if node is None:
            return False
        found = [self._registry.get(id) for id in node.backends]
        return node.speaks(self._clock.seconds()) or any(
            entry is not None and entry.health.condition in (Condition.UP, Condition.EJECTED)
            for entry in found
        )

    def register(
        self, registration: Registration, backends: Iterable[Backend], token: str | None = None
    ) -> Node:
        """Take in a node with all of its backends; those that it no longer names leave.

        What is older than what the node has said already is dropped.

        :raises Refusal: node_id_conflict when another agent of that name is alive.
        """
        now, backends = self._clock.seconds(), tuple(backends)
        node = self._nodes.get(registration.node)
        if node is not None:
            node.refuse_another(registration, now)
            if node.has_told_more(registration):
                return node
        self._nodes[registration.node] = node = _node(registration, backends, token, now)
        reports = {report.id: report for report in registration.backends}
        self._registry.report(
            node.name, [(each, reports.get(each.id.backend)) for each in backends]
        )
        return node

    def restore(
        self,
        registration: Registration,
        backends: Iterable[Backend],
        shared: bool = False,
        token: str | None = None,
    ) -> None:
        """Take in a node that has not spoken here, in an earlier life or at another gateway.

        Its backends take nothing before a good check, and another agent of its name is not refused:
        the box may have been restarted as well. It is believed for one lease; when `shared`, for as
        long as its checks are good, as its agent may well tell another gateway.
        """
        known = self._nodes.get(registration.node)
        if known is None or not known.heard:
            node = self.register(registration, backends, token)
            node.heard = False
            node.until = None if shared else node.until

    def stale(self, registration: Registration) -> bool:
        """Whether a heartbeat is older than what its node has said already.

        :raises Refusal: unknown_node when it must register first, node_id_conflict.
        """
        node = self._nodes.get(registration.node)
        if node is None or (node.instance != registration.instance and node.until is None):
            raise Refusal(
                "unknown_node",
                f"The node '{registration.node}' is not registered here. Register it again.",
                param="node",
            )
        node.refuse_another(registration, self._clock.seconds())
        return node.has_told_more(registration)

    def deregister(self, name: str) -> None:
        """Forget a node and its backends; answers that are under way go on.

        :raises Refusal: unknown_node.
        """
        if self._nodes.pop(name, None) is None:
            raise Refusal("unknown_node", f"The node '{name}' is not registered here.")
        self._registry.report(name, ())

    def tick(self) -> None:
        """Let leases end, and forget who has been silent for long."""
        now = self._clock.seconds()
        for node in self:
            if node.until is not None and now >= node.until:
                self._registry.silence(node.name)
                if now >= node.until + FORGET:
                    self.deregister(node.name)


def _node(
    registration: Registration, backends: Iterable[Backend], token: str | None, now: float
) -> Node:
    return Node(
        registration.node,
        plain=registration.plain,
        token=token,
        instance=registration.instance,
        generation=registration.generation,
        until=None if registration.plain else now + LEASE,
        labels=registration.labels,
        gpus=registration.gpus,
        host=registration.host,
        version=registration.agent.version if registration.agent else "",
        backends=tuple(backend.id for backend in backends),
    )
