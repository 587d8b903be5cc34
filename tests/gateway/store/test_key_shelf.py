"""The promises of `rolemesh.gateway.store.key_shelf`."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.keyfile import record_text
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import ENTROPY, KeyKind, mint, revoke
from rolemesh.gateway.store.key_shelf import KeyShelf, read_records

NOW = 1_000_000.0
TEXT, RECORD = mint(KeyKind.CLIENT, bytes([1]) * ENTROPY, NOW)
OTHER_TEXT, OTHER = mint(KeyKind.NODE, bytes([2]) * ENTROPY, NOW)


class KeyShelfTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.shelf = KeyShelf()

    def opens(self, text: str) -> bool:
        return self.shelf.ring().check(text, NOW) is not None

    def test_closed_at_first(self) -> None:
        """Before the database was read every key is refused with 503, and not let in."""
        self.shelf.load()
        refusal = self.assertRaises(Refusal, self.shelf.ring)
        self.assertEqual((refusal.status, refusal.code), (503, "state_unavailable"))

    def test_all(self) -> None:
        """What the database holds opens, also nothing; what it holds no more does not."""
        self.shelf.put_all(read_records({RECORD.id: record_text(RECORD)}))
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (True, False))
        self.shelf.put_all({OTHER.id: OTHER})
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (False, True))
        self.shelf.put_all({})
        self.assertEqual(len(self.shelf.ring()), 0)

    def test_changes(self) -> None:
        """A change is that of one key: new, revoked or gone."""
        self.shelf.put_all({RECORD.id: RECORD})
        self.shelf.put({OTHER.id: OTHER})
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (True, True))
        self.shelf.put({RECORD.id: revoke(RECORD), OTHER.id: None, "rmk_nobody22": None})
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (False, False))

    def test_unreadable(self) -> None:
        """A record that cannot be read, or stands under another's id, opens nothing; the others
        count."""
        self.shelf.put_all({RECORD.id: RECORD, OTHER.id: OTHER})
        self.shelf.put(read_records({RECORD.id: record_text(RECORD) + "power: all\n"}))
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (False, True))
        self.shelf.put(read_records({OTHER.id: record_text(RECORD)}))
        self.assertEqual((self.opens(TEXT), self.opens(OTHER_TEXT)), (False, False))
