"""The promises of `rolemesh.core.keys`."""

from hashlib import sha256
from hmac import compare_digest
from unittest.mock import patch

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core import keys
from rolemesh.core.addresses import read_address, read_network
from rolemesh.core.keys import (
    ENTROPY,
    SECRET_BYTES,
    KeyKind,
    KeyRecord,
    KeyRing,
    Scope,
    mint,
    read_id,
    revoke,
    rotate,
)

NOW = 1_000_000.0
FIRST, SECOND = bytes(range(ENTROPY)), bytes(range(100, 100 + ENTROPY))


def minted(kind: KeyKind = KeyKind.CLIENT, entropy: bytes = FIRST) -> tuple[str, KeyRecord]:
    return mint(kind, entropy, NOW)


class MintTests(SynchronousTestCase):
    """A new key."""

    def test_format(self) -> None:
        """A key's text is `rmk_`, `rmn_` or `rma_`, eight letters, and 256 bits in base64url."""
        for kind in KeyKind:
            text, record = minted(kind)
            self.assertRegex(text, rf"^{kind.value}_[a-z2-7]{{8}}_[A-Za-z0-9_-]{{43}}$")
            self.assertEqual(read_id(text), record.id)
            self.assertIs(record.kind, kind)

    def test_record_holds_the_hash_alone(self) -> None:
        """A record has the SHA-256 of the whole text, and its repr has neither of the two."""
        text, record = minted()
        self.assertEqual(record.secrets[0].hash, sha256(text.encode()).digest())
        self.assertNotIn(text[-43:], repr(record))
        self.assertNotIn(repr(record.secrets[0].hash), repr(record))

    def test_allows_nothing_yet(self) -> None:
        """No roles means none, `*` means all, and names mean those."""
        _, record = minted()
        self.assertFalse(record.allows("coder"))
        self.assertTrue(evolve(record, roles="*").allows("coder"))
        named = evolve(record, roles=("coder",))
        self.assertEqual([named.allows("coder"), named.allows("planner")], [True, False])

    def test_scopes_by_kind(self) -> None:
        """A client key may chat and list models, a node token may register, and no more."""
        self.assertEqual(minted()[1].scopes, (Scope.CHAT, Scope.MODELS))
        self.assertEqual(minted(KeyKind.NODE)[1].scopes, (Scope.REGISTER,))

    def test_too_little_entropy(self) -> None:
        """A key is never made of fewer random bytes than it needs."""
        self.assertRaises(ValueError, mint, KeyKind.CLIENT, b"short", NOW)


class ReadTests(SynchronousTestCase):
    """A presented text."""

    @given(st.text(max_size=200))
    def test_anything(self, text: str) -> None:
        """C25: no text that was not made by us has a key's form, and none is an error."""
        self.assertIsNone(read_id(text))

    def test_strict(self) -> None:
        """C25: a key that is changed in any part of its form is no key."""
        text, _ = minted()
        for spoilt in (
            text + "\n",
            " " + text,
            text.upper(),
            text[:-1],
            text + "A",
            "rmx" + text[3:],
        ):
            self.assertIsNone(read_id(spoilt), spoilt)
        self.assertIsNone(read_id(text[:-1] + "\uff11"))
        self.assertIsNone(read_id(None))


class KeyRingTests(SynchronousTestCase):
    """A key among many."""

    def setUp(self) -> None:
        self.text, self.record = minted()
        self.other, other = minted(entropy=SECOND)
        self.ring = KeyRing([self.record, other])

    def check(self, record: KeyRecord, now: float = NOW) -> KeyRecord | None:
        return KeyRing([record]).check(self.text, now)

    def test_known(self) -> None:
        """A key's own text finds its record."""
        self.assertIs(self.ring.check(self.text, NOW), self.record)

    def test_C25_refused_alike(self) -> None:
        """None, malformed, unknown and wrong texts all find nothing."""
        unknown, _ = minted(KeyKind.NODE)
        wrong = self.text[:13] + self.other[13:]
        for text in (None, "", "nonsense", "x" * 10_000, unknown, wrong):
            self.assertIsNone(self.ring.check(text, NOW), text)

    def test_C25_same_work(self) -> None:
        """A text is hashed once and compared twice, whatever is wrong with it."""
        unknown, _ = minted(KeyKind.NODE)
        for text in (None, "nonsense", unknown, self.text):
            with (
                patch.object(keys, "sha256", wraps=sha256) as hashed,
                patch.object(keys, "compare_digest", wraps=compare_digest) as compared,
            ):
                self.ring.check(text, NOW)
            self.assertEqual((hashed.call_count, compared.call_count), (1, 2), text)

    def test_C25_L8_expired(self) -> None:
        """A key ends and begins at its time, by a clock that may be a minute off."""
        ending = evolve(self.record, expires_at=NOW - 60)
        self.assertIsNone(self.check(ending))
        self.assertIs(self.check(ending, NOW - 1), ending)
        starting = evolve(self.record, not_before=NOW + 60)
        self.assertIs(self.check(starting), starting)
        self.assertIsNone(self.check(starting, NOW - 1))

    def test_revoked(self) -> None:
        """A revoked key finds nothing."""
        self.assertIsNone(self.check(revoke(self.record)))

    def test_rotated(self) -> None:
        """After a rotation both texts work until the overlap ends, then the new one alone."""
        new, record = rotate(self.record, bytes(SECRET_BYTES), NOW, overlap=60)
        ring = KeyRing([record])
        self.assertIs(ring.check(new, NOW), record)
        self.assertIs(ring.check(self.text, NOW + 59), record)
        self.assertIsNone(ring.check(self.text, NOW + 60))
        self.assertIs(ring.check(new, NOW + 60), record)

    def test_rotated_twice(self) -> None:
        """No more than two texts of a key live: a second rotation ends the first text."""
        _, record = rotate(self.record, bytes(SECRET_BYTES), NOW, overlap=60)
        _, record = rotate(record, bytes([1]) * SECRET_BYTES, NOW, overlap=60)
        self.assertIsNone(KeyRing([record]).check(self.text, NOW))

    def test_networks(self) -> None:
        """A key with networks is welcome from them alone, and not from an unknown address."""
        record = evolve(self.record, networks=(read_network("10.0.0.0/8"),))
        self.assertTrue(record.welcomes(read_address("::ffff:10.1.2.3")))
        self.assertFalse(record.welcomes(read_address("192.168.1.1")))
        self.assertFalse(record.welcomes(None))
        self.assertTrue(self.record.welcomes(None))
