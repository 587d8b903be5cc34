"""Which address servers bind to."""

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node.address import RETRY, OwnAddress


class OwnAddressTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.known: dict[str, str] = {}

    def resolve(self, name: str) -> Deferred[str]:
        return succeed(self.known[name]) if name in self.known else fail(DNSLookupError(name))

    def find(self, *gateways: str, advertise: str | None = None) -> Deferred[str]:
        address = OwnAddress(gateways, advertise, self.clock, self.resolve)
        return Deferred.fromCoroutine(address.find())

    def test_with_all_gateways_here_servers_stay_here(self) -> None:
        """Loopback is never left without need, whatever is advertised."""
        found = self.find("http://127.0.0.1:8000", "http://localhost:1", advertise="10.0.0.9")
        self.assertEqual(self.successResultOf(found), "127.0.0.1")

    def test_the_file_names_the_address(self) -> None:
        """One gateway elsewhere is enough, and `advertise` is believed."""
        found = self.find("http://127.0.0.1:8000", "http://gw.lan:8000", advertise="10.0.0.9")
        self.assertEqual(self.successResultOf(found), "10.0.0.9")

    def test_else_it_is_the_one_that_reaches_the_gateway(self) -> None:
        """The local address of the route to the first gateway beyond loopback."""
        self.known = {"gw.lan": "127.0.0.1"}
        self.assertEqual(self.successResultOf(self.find("http://gw.lan:8000")), "127.0.0.1")

    def test_a_network_that_comes_later_is_waited_for(self) -> None:
        """A machine that boots faster than its network does not give up."""
        found = self.find("http://gw.lan:8000")
        self.clock.advance(RETRY)
        self.assertNoResult(found)
        self.known = {"gw.lan": "127.0.0.1"}
        self.clock.advance(RETRY)
        self.assertEqual(self.successResultOf(found), "127.0.0.1")
