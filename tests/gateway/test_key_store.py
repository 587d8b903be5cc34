"""The promises of `rolemesh.gateway.key_store`: row P17 among them."""

from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from rolemesh.config.private import write_private
from rolemesh.config.problems import ConfigError
from rolemesh.core.keys import ENTROPY, KeyKind, mint, revoke
from rolemesh.gateway.keys import Gatekeeper
from tests.gateway.keys_case import NOW, GatekeeperCase, asking


class ChangeTests(GatekeeperCase):
    """A key file that changes."""

    def test_new_key(self) -> None:
        """A key that is added counts within a second."""
        self.keeper.client(asking(self.key))
        key, record = mint(KeyKind.CLIENT, bytes([3]) * ENTROPY, NOW)
        self.write(record)
        self.clock.advance(1)
        self.assertEqual(self.keeper.client(asking(key)), record)
        self.assertEqual(self.code(self.key), "invalid_api_key")

    def test_clock_set_back(self) -> None:
        """A clock that is set back does not put off a revocation."""
        self.clock.advance(5000)
        self.keeper.client(asking(self.key))
        self.write(revoke(self.client))
        self.clock.rightNow = 10
        self.assertEqual(self.refusal(self.keeper.client, asking(self.key)).status, 401)

    def test_unreadable(self) -> None:
        """P17: while the file is missing, broken or open to others, everyone gets 503."""
        for harm in (
            self.keys.unlink,
            lambda: self.keys.chmod(0o644),
            lambda: write_private(self.keys, "keys: {"),
            lambda: write_private(self.keys, "keys: [{id: rmk_aaaaaaaa}]"),
        ):
            self.write(self.client)
            self.clock.advance(1)
            self.keeper.client(asking(self.key))
            harm()
            self.clock.advance(1)
            for key in (self.key, None):
                refused = self.refusal(self.keeper.client, asking(key))
                self.assertEqual((refused.code, refused.status), ("state_unavailable", 503))
                self.assertNotIn(str(self.keys), refused.message)

    def test_mended(self) -> None:
        """P17: once the file is mended its keys count again within a second."""
        self.keys.chmod(0o644)
        self.assertEqual(self.code(self.key), "state_unavailable")
        self.keys.chmod(0o600)
        self.clock.advance(1)
        self.assertEqual(self.keeper.client(asking(self.key)), self.client)

    def test_told_once(self) -> None:
        """The operator is told once why no key is accepted, and by which command that ends."""
        told: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            told.append(event.get("problem", ""))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        self.keys.chmod(0o644)
        for _ in range(3):
            self.code(self.key)
        self.assertEqual(len(list(filter(None, told))), 1)
        self.assertIn("chmod 600", "".join(told))

    def test_unreadable_at_start(self) -> None:
        """P17: a gateway whose keys cannot be read does not start."""
        self.keys.unlink()
        self.assertRaises(ConfigError, Gatekeeper(self.clock, self.keys).load)
