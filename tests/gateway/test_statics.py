"""The promises of `rolemesh.gateway.statics`."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.model import Role, Target
from rolemesh.gateway.statics import static_backends


class StaticBackendsTests(SynchronousTestCase):
    """Servers that the configuration names, as backends."""

    def names(self, *roles: Role) -> dict[str, str]:
        found = static_backends(roles)
        return {server.url or "": str(backend.id) for server, backend in found.items()}

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
        (backend,) = static_backends([Role("r", use=(target,))]).values()
        told = (backend.base_url, backend.key, backend.model, backend.slots)
        self.assertEqual(told, ("http://a", "k", "m", 3))

    def test_several_models_at_one_url(self) -> None:
        """Roles that ask one URL for different models, or with different keys, each get theirs."""
        url = "http://s"
        targets = [Target(url=url, model="m"), Target(url=url, model="n"), Target(url=url, key="k")]
        found = static_backends([Role(f"r{at}", use=(it,)) for at, it in enumerate(targets)])
        told = [(str(each.id), each.model, each.key) for each in found.values()]
        self.assertEqual(
            told,
            [("static/r0", "m", None), ("static/r1", "n", None), ("static/r2", None, "k")],
        )

    def test_slots_of_a_shared_server(self) -> None:
        """Any role may tell the slots of a server that several use."""
        one, two = Target(url="http://s"), Target(url="http://s", slots=3)
        (backend,) = static_backends([Role("a", use=(one,)), Role("b", use=(two,))]).values()
        self.assertEqual((str(backend.id), backend.slots), ("static/a", 3))

    def test_slots_of_a_server_with_several_names(self) -> None:
        """Told once, they are those of each name, but for a model that may have slots of its own;
        a port that goes without saying makes no other place."""
        for url, model, slots in (
            ("http://s:80", "m", 3),
            ("http://s:80/", None, 3),
            ("http://s:81", "m", None),
            ("http://s/path", "m", None),
            ("https://s:80", "m", None),
        ):
            one = Target(url="http://s", model="m", slots=3)
            other = Target(url=url, model=model, key="k")
            found = static_backends([Role("a", use=(other,)), Role("b", use=(one,))])
            self.assertEqual((url, found[other].slots), (url, slots))
        told = Target(url="http://s", model="m", slots=3)
        silent = Target(url="http://s", model="n")
        found = static_backends([Role("a", use=(told, silent))])
        self.assertEqual([each.slots for each in found.values()], [3, None])

    def test_names_are_unique(self) -> None:
        """A role that is called as another role's server is takes nobody's place."""
        one = Role("a", use=(Target(url="http://s"), Target(url="http://t")))
        two = Role("a-1", use=(Target(url="http://u"),))
        found = self.names(one, two)
        self.assertEqual(
            found, {"http://s": "static/a-1", "http://t": "static/a-2", "http://u": "static/a-1-1"}
        )
