"""What the machine answers."""

import socket
from contextlib import closing
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node import host
from tests.real.harness import free_port


def listener() -> socket.socket:
    sock = socket.create_server(("127.0.0.1", 0))
    sock.listen()
    return sock


class FreePortTests(SynchronousTestCase):
    def test_A4_a_port_in_use_is_passed_over(self) -> None:
        """A port on which somebody listens is not given, the next one is."""
        free = free_port()
        with closing(listener()) as used:
            taken = used.getsockname()[1]
            self.assertEqual(host.free_port("127.0.0.1", (taken, free), ()), free)

    def test_a_promised_port_is_passed_over(self) -> None:
        """Two servers that start at once do not get the same port."""
        port = free_port()
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


class KernelTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.own, self.group = self.folder / "cgroup", self.folder / "system.slice/node.service"
        self.group.mkdir(parents=True)
        self.patch(host, "_OWN_CGROUP", self.own)
        self.patch(host, "_CGROUP", self.folder)

    def test_A10_the_kernels_kills_are_counted_where_we_are(self) -> None:
        """In our own cgroup's `memory.events`, the kills alone."""
        self.own.write_text("0::/system.slice/node.service\n")
        (self.group / "memory.events").write_text("low 0\nmax 31\noom 5\noom_kill 2\n")
        self.assertEqual(host.kernel_kills(), 2)

    def test_A10_where_no_cgroup_tells_there_are_none(self) -> None:
        """No cgroup of version 2, no file of it, or nonsense in it."""
        self.assertEqual(host.kernel_kills(), 0)
        self.own.write_text("1:name=systemd:/\n0::/system.slice/node.service\n")
        self.assertEqual(host.kernel_kills(), 0)
        (self.group / "memory.events").write_text("oom_kill\n")
        self.assertEqual(host.kernel_kills(), 0)
