"""What the node tells on its own machine, where nothing runs yet."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node.status import node_status
from rolemesh.tls.ending import Ending, Endings

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class StatusTests(SynchronousTestCase):
    def test_L18_warnings(self) -> None:
        """A certificate of the node's that ends soon is told of for as long as it is in use."""
        endings = Endings(Clock(), NOON.timestamp)
        nothing: Any = SimpleNamespace(running=(), degraded="", sample=(), standings=lambda: ())
        status = node_status("box2", nothing, nothing, nothing, nothing, nothing, endings)
        self.assertEqual(status().warnings, ())
        for days, told in ((5, ("certificate box2.pem expires in 5 days",)), (300, ())):
            at = NOON + timedelta(days=days)
            endings.note(Ending("certificate", "/etc/box2.pem", at, "renew it"))
            self.assertEqual(status().warnings, told)

    def test_A30_degraded(self) -> None:
        """What the state folder does not do for the servers is told as long as that is so."""
        past: Any = SimpleNamespace(degraded="no record of gpu0: No space left on device")
        nothing: Any = SimpleNamespace(running=(), sample=(), standings=lambda: ())
        endings = Endings(Clock(), NOON.timestamp)
        status = node_status("box2", nothing, past, nothing, nothing, nothing, endings)
        self.assertEqual(status().degraded, "no record of gpu0: No space left on device")
        past.degraded = ""
        self.assertEqual(status().degraded, "")
