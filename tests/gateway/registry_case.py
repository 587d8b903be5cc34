"""A registry on a clock, the fleet that reports to it, and what nodes say."""

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.health import Sign
from rolemesh.core.model import Backend, BackendId, Role, Target
from rolemesh.core.report import BackendReport, Registration
from rolemesh.core.routing import Candidate
from rolemesh.gateway.entries import Entry
from rolemesh.gateway.fleet import Fleet
from rolemesh.gateway.registry import Registry

GPU0 = BackendId("box2", "gpu0")
GPU1 = BackendId("box2", "gpu1")
PLAIN = BackendId("box3", "server")
CODER = Role("coder", use=(Target(model="qwen"),))


def report(id: str = "gpu0", **more: Any) -> BackendReport:
    more = {"base_url": "http://10.0.0.12:18100", "model": "qwen", **more}
    return BackendReport(id, **more)


def full(*reports: BackendReport, **more: Any) -> Registration:
    """What an agent sends."""
    more = {"node": "box2", "instance": "one", **more}
    return Registration(backends=reports or (report(),), **more)


def plain(**more: Any) -> Registration:
    """What a person types."""
    more = {"base_url": "http://10.0.0.13:8080", "roles": ("coder",), **more}
    return Registration("box3", **more)


def backends_of(told: Registration) -> list[Backend]:
    if told.base_url is not None:
        return [Backend(BackendId(told.node, "server"), told.base_url, roles=frozenset(told.roles))]
    return [
        Backend(
            BackendId(told.node, each.id),
            each.base_url,
            model=each.model,
            roles=frozenset(each.roles),
            slots=each.slots,
            context=each.context,
        )
        for each in told.backends
    ]


class RegistryCase(SynchronousTestCase):
    """A registry on a clock, with one change counted each time that it tells of one."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry = Registry(self.clock)
        self.fleet = Fleet(self.clock, self.registry)
        self.changes = 0
        self.registry.on_change.append(self._count)

    def _count(self) -> None:
        self.changes += 1

    def tell(self, told: Registration) -> None:
        self.fleet.register(told, backends_of(told))

    def entry(self, id: BackendId = GPU0) -> Entry:
        entry = self.registry.get(id)
        assert entry is not None
        return entry

    def up(self, id: BackendId = GPU0) -> None:
        self.registry.sign(id, Sign.CHECK_OK)

    def candidate(self, role: Role = CODER) -> Candidate:
        (candidate,) = self.registry.candidates(role, lambda _: (0, 0))
        return candidate

    def refused(self, call: Any, *arguments: Any) -> str:
        refusal = self.assertRaises(Refusal, call, *arguments)
        return str(refusal.code)

    def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.fleet.tick()
        self.registry.tick()
