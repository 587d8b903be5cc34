"""The promises of `rolemesh.tls.server`: what a listener needs, row L18."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.tls import ServerTls
from rolemesh.tls.ending import Endings
from rolemesh.tls.fresh import TlsProblem
from rolemesh.tls.server import ServerSide
from tests.doubles.pki import Pki


class ServerFilesTests(SynchronousTestCase):
    """What a listener needs: row L18."""

    def setUp(self) -> None:
        self.pki = Pki(Path(self.mktemp()).absolute())
        self.logged = self.enterContext(capturedLogs())

    def load(self, tls: ServerTls) -> ServerSide:
        clock = Clock()
        side = ServerSide(clock, tls, Endings(clock, time.time))
        side.load()
        return side

    def problem(self, tls: ServerTls) -> str:
        return str(self.assertRaises(TlsProblem, self.load, tls))

    def warnings(self) -> list[Any]:
        return [event for event in self.logged if event["log_level"].name == "warn"]

    def test_good(self) -> None:
        """A good pair is used without a warning, and tells when it ends."""
        side = self.load(self.pki.server("gw"))
        self.assertGreater(side.expires, datetime.now(UTC) + timedelta(days=300))
        self.assertEqual(self.warnings(), [])

    def test_L18_unusable(self) -> None:
        """Files that are missing, no PEM, of two pairs or open to others are told in one line."""
        good, other = self.pki.server("gw"), self.pki.server("other", file="other")
        nothing, text = self.pki.folder / "none", self.pki.folder / "text"
        text.write_text("no PEM")
        text.chmod(0o600)
        for tls, told in (
            (ServerTls(nothing, good.key), "cannot be read: No such file"),
            (ServerTls(good.cert, nothing), "no such file"),
            (ServerTls(text, good.key), "holds no certificate"),
            (ServerTls(good.cert, text), "holds no private key"),
            (ServerTls(good.cert, other.key), "is not the key of the certificate"),
            (ServerTls(good.cert, good.key, text), "holds no certificate"),
        ):
            problem = self.problem(tls)
            self.assertIn(told, problem)
            self.assertEqual(len(problem.splitlines()), 1)
        short = self.pki.short()
        self.assertIn("key too small", self.problem(short))
        good.key.chmod(0o640)
        self.assertIn("others may read or write it", self.problem(good))

    def test_L18_the_ca_of_its_clients(self) -> None:
        """Of the CA that signs nodes' certificates it is told as well, and what that means."""
        ending = Pki(self.pki.folder / "old", datetime.now(UTC) - timedelta(days=3640))
        good = self.pki.server("gw")
        self.load(ServerTls(good.cert, good.key, ending.ca))
        (warning,) = self.warnings()
        self.assertEqual((warning["kind"], warning["ends"]), ("CA", "expires in 9 days"))
        self.assertIn("nodes whose certificates it signed are refused", warning["then"])

    def test_L18_expired(self) -> None:
        """An expired certificate, and one that soon will be, is used with a warning."""
        for days, told in ((500, "has expired"), (390, "expires in 6 days")):
            self.load(self.pki.server("gw", now=datetime.now(UTC) - timedelta(days=days)))
            self.assertEqual(self.warnings()[-1]["ends"], told)
