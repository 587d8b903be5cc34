"""The promises of `rolemesh.gateway.statics`."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.model import Role, Target
from rolemesh.gateway.statics import static_backends


class StaticBackendsTests(SynchronousTestCase):
    """Servers that the configuration names, as backends."""

    def names(self, *roles: Role) -> dict[str, str]:
        return {url: str(backend.id) for url, backend in static_backends(roles).items()}

    def test_one(self) -> None:
        """A role's only server has the role's name."""
        role = Role("planner", use=(Target(url="http://a"),))
        self.assertEqual(self.names(role), {"http://a": "static/planner"})

    def test_several(self) -> None:
        """Several are numbered in their order; models are no servers."""
        role = Role(
            "coder", use=(Target(url="http://a"), Target(model="m"), Target(url="http://b"))
        )
        self.assertEqual(
            self.names(role), {"http://a": "static/coder-1", "http://b": "static/coder-2"}
        )

    def test_shared(self) -> None:
        """A URL of two roles is one backend, named after the first."""
        one = Role("a", use=(Target(url="http://s"),))
        two = Role("b", use=(Target(url="http://s"), Target(url="http://t")))
        self.assertEqual(self.names(one, two), {"http://s": "static/a", "http://t": "static/b-2"})

    def test_told(self) -> None:
        """What the file says of a server is the backend's."""
        target = Target(url="http://a", key="k", model="m", slots=3)
        backend = static_backends([Role("r", use=(target,))])["http://a"]
        told = (backend.base_url, backend.key, backend.model, backend.slots)
        self.assertEqual(told, ("http://a", "k", "m", 3))
