"""What the machine answers."""

import socket
from contextlib import closing

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node import host


def listener() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.listen()
    return sock


class FreePortTests(SynchronousTestCase):
    def test_A4_a_port_in_use_is_passed_over(self) -> None:
        """A port on which somebody listens is not given, the next one is."""
        with closing(listener()) as used, closing(listener()) as soon_free:
            free = soon_free.getsockname()[1]
            taken = used.getsockname()[1]
            soon_free.close()
            self.assertEqual(host.free_port("127.0.0.1", (taken, free), ()), free)

    def test_a_promised_port_is_passed_over(self) -> None:
        """Two servers that start at once do not get the same port."""
        with closing(listener()) as soon_free:
            port = soon_free.getsockname()[1]
        self.assertIsNone(host.free_port("127.0.0.1", (port,), (port,)))

    def test_an_address_that_is_not_ours_has_no_free_port(self) -> None:
        """Binding to somebody else's address fails as a port in use does."""
        self.assertIsNone(host.free_port("192.0.2.1", (18100,), ()))


class AddressTests(SynchronousTestCase):
    def test_loopback_is_known_in_all_spellings(self) -> None:
        """Names and addresses of this machine alone."""
        for url in ("http://localhost:8000", "http://127.0.0.2:8000", "https://[::1]:8000"):
            self.assertTrue(host.is_loopback(url), url)
        for url in ("http://gw.lan:8000", "http://10.0.0.1", "http://localhost.evil.example"):
            self.assertFalse(host.is_loopback(url), url)

    def test_the_way_to_ourselves_is_ourselves(self) -> None:
        """The local address is found without sending anything."""
        self.assertEqual(host.address_towards("127.0.0.1"), "127.0.0.1")

    def test_base_urls(self) -> None:
        """An IPv6 address is bracketed."""
        self.assertEqual(host.base_url("10.0.0.12", 18100), "http://10.0.0.12:18100")
        self.assertEqual(host.base_url("fd00::12", 18100), "http://[fd00::12]:18100")

    def test_the_kernels_kills_are_a_number_everywhere(self) -> None:
        """Where no cgroup tells, it is zero."""
        self.assertGreaterEqual(host.kernel_kills(), 0)
