"""The promises of `rolemesh.gateway.fleet`: rows N2, N12 and P11 among them."""

from rolemesh.core.model import BackendState
from rolemesh.core.report import Registration
from rolemesh.gateway.fleet import FORGET, LEASE
from tests.gateway.registry_case import CODER, GPU0, PLAIN, RegistryCase, full, plain, report


class RegistrationTests(RegistryCase):
    """Who may say what of which node."""

    def test_N2_conflict(self) -> None:
        """Another agent of a name that is alive is refused, and changes nothing."""
        self.tell(full(generation=3))
        for intruder in (full(instance="two"), full(instance="two", generation=3)):
            self.assertEqual(self.refused(self.tell, intruder), "node_id_conflict")
        node = self.fleet.get("box2")
        self.assertEqual(node and node.instance, "one")

    def test_N2_never_alternate(self) -> None:
        """Of two agents with one name one is heard for as long as it goes on."""
        self.tell(full(generation=1))
        for generation in range(2, 12):
            self.pass_time(5)
            self.assertFalse(self.fleet.stale(full(generation=generation)))
            self.tell(full(generation=generation))
            intruder = full(instance="two", generation=generation)
            self.assertEqual(self.refused(self.fleet.stale, intruder), "node_id_conflict")
            self.assertEqual(self.refused(self.tell, intruder), "node_id_conflict")

    def test_N2_takes_over(self) -> None:
        """A higher generation, or the end of the lease, lets another instance take over."""
        self.tell(full(generation=1))
        self.tell(full(instance="two", generation=2))
        self.assertEqual(self.refused(self.tell, full(generation=1)), "node_id_conflict")
        self.pass_time(LEASE)
        self.tell(full(instance="three"))
        node = self.fleet.get("box2")
        self.assertEqual(node and node.instance, "three")

    def test_stale_heartbeat(self) -> None:
        """A report older than the latest is known for one; the same again is none."""
        self.tell(full(generation=4))
        self.assertTrue(self.fleet.stale(full(generation=3)))
        self.assertFalse(self.fleet.stale(full(generation=4)))
        self.assertFalse(self.fleet.stale(full(generation=5)))

    def test_stale_registration(self) -> None:
        """A report that was overtaken while it was judged changes nothing."""
        self.tell(full(report(state=BackendState.LOADING), generation=4))
        self.tell(full(generation=3))
        self.assertEqual(self.entry().node_state, BackendState.LOADING)

    def test_unknown_node(self) -> None:
        """A heartbeat of, and a goodbye from, a node that is not registered are unknown_node."""
        self.assertEqual(self.refused(self.fleet.stale, full()), "unknown_node")
        self.assertEqual(self.refused(self.fleet.deregister, "box2"), "unknown_node")

    def test_agent_beats_for_a_plain_node(self) -> None:
        """An agent must register before it may report on a node that a person typed."""
        self.tell(plain())
        beat = Registration("box3", instance="one", backends=(report(),))
        self.assertEqual(self.refused(self.fleet.stale, beat), "unknown_node")

    def test_deregister(self) -> None:
        """A node that leaves takes its backends along, and no other's."""
        self.tell(full())
        self.tell(plain())
        self.fleet.deregister("box2")
        self.assertEqual([entry.backend.id for entry in self.registry], [PLAIN])
        self.assertEqual([node.name for node in self.fleet], ["box3"])


class LeaseTests(RegistryCase):
    """P11: leases are measured on the monotonic clock that the registry was given."""

    def setUp(self) -> None:
        super().setUp()
        self.tell(full())
        self.up()

    def test_P11_silent(self) -> None:
        """A node is served up to its lease's end, then gets nothing new, and waiters are told."""
        self.pass_time(LEASE - 0.1)
        self.assertTrue(self.entry().ready)
        changes = self.changes
        self.pass_time(0.1)
        self.assertFalse(self.entry().ready)
        self.assertEqual(self.changes, changes + 1)
        self.assertIn("silent", self.registry.standing(CODER).missing[0])

    def test_P11_running_goes_on(self) -> None:
        """What is under way at a silent node is still counted, in and out."""
        self.registry.take(GPU0, "coder", 1.0)
        self.pass_time(LEASE)
        self.assertEqual(self.entry().in_flight, 1)
        self.registry.give(GPU0, 1.0)
        self.assertEqual(self.entry().in_flight, 0)

    def test_P11_revives(self) -> None:
        """The next heartbeat brings a silent node back at once, and its health with it."""
        self.pass_time(LEASE + 60)
        self.assertFalse(self.fleet.stale(full(generation=1)))
        self.tell(full(generation=1))
        self.assertTrue(self.entry().ready)
        self.pass_time(LEASE - 0.1)
        self.assertTrue(self.entry().ready)

    def test_P11_forgotten(self) -> None:
        """After ten minutes of silence a node is hidden from listings, and not before."""
        self.pass_time(LEASE + FORGET - 1)
        self.assertEqual(len(list(self.fleet)), 1)
        self.pass_time(1)
        self.assertEqual(list(self.fleet), [])
        self.assertEqual(list(self.registry), [])
        self.assertEqual(self.refused(self.fleet.stale, full()), "unknown_node")

    def test_N12_all_gone(self) -> None:
        """A role whose nodes are all silent has nobody ready and says who is missing."""
        self.pass_time(LEASE)
        standing = self.registry.standing(CODER)
        self.assertEqual((standing.ready, standing.total), (0, 1))
        self.assertIn("box2/gpu0", standing.missing[0])
