"""The promises of `rolemesh.gateway.edge_site`: row C6 among them."""

from twisted.internet.address import IPv4Address

from rolemesh.gateway.edge_site import Limits
from tests.gateway.edge_case import EdgeTestCase


class SiteTests(EdgeTestCase):
    def test_C6_connections_of_one_address(self) -> None:
        """Past its share an address is turned away; others are not; a leaver makes room."""
        self.build(self.echo, Limits(address_connections=2))
        first, _ = self.connect()
        self.connect()
        self.assertIsNone(self.site.buildProtocol(IPv4Address("TCP", "192.0.2.1", 1)))
        self.assertEqual([("rate_limit_exceeded", "", "192.0.2.1")], self.refused)
        self.connect("192.0.2.2")
        self.leave(first)
        self.connect()

    def test_C6_connections_in_all(self) -> None:
        """Past the total everybody is turned away until one leaves."""
        self.build(self.echo, Limits(connections=2))
        first, _ = self.connect("192.0.2.1")
        self.connect("192.0.2.2")
        self.assertIsNone(self.site.buildProtocol(IPv4Address("TCP", "192.0.2.3", 1)))
        self.leave(first)
        self.connect("192.0.2.3")

    def test_C20_no_http2_is_negotiated(self) -> None:
        """Only HTTP/1.1 is offered in a TLS handshake."""
        self.assertEqual([b"http/1.1"], self.site.acceptableProtocols())
