"""How many connections a process has room for: row C6."""

import resource

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.gateway.edge_site import Limits
from rolemesh.gateway.room import limits


class RoomTests(SynchronousTestCase):
    def limits(self, soft: int, hard: int) -> Limits:
        """The limits of a process that may have so many descriptors."""
        self.asked: list[tuple[int, int]] = []
        self.patch(resource, "getrlimit", lambda _: (soft, hard))
        self.patch(resource, "setrlimit", lambda _, both: self.asked.append(both))
        return limits()

    def test_C6_as_many_as_there_may_be(self) -> None:
        """The process takes what it may have, for 4096 connections, half of them of one address."""
        found = self.limits(1024, 65_536)
        self.assertEqual(self.asked, [(65_536, 65_536)])
        self.assertEqual((found.connections, found.address_connections), (4096, 2048))
        self.assertEqual(self.limits(-1, -1).connections, 4096)

    def test_C6_few_descriptors(self) -> None:
        """Where they are few, so are the connections: each has two, and some are its own."""
        found = self.limits(200, 300)
        self.assertEqual((found.connections, found.address_connections), (138, 138))

    def test_C6_next_to_none(self) -> None:
        """There is always room for one."""
        self.assertEqual(self.limits(10, 10).connections, 1)
