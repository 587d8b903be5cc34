"""The promises of `rolemesh.core.pins`."""

from base64 import b64encode
from hashlib import sha256

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.pins import pin_of_key, read_pin


class PinTests(SynchronousTestCase):
    """What a pin is, and what is none."""

    def test_spelling(self) -> None:
        """A pin is the base64 of the SHA-256 of a key's SubjectPublicKeyInfo."""
        spelled = "sha256:" + b64encode(sha256(b"key").digest()).decode()
        self.assertEqual(pin_of_key(b"key"), spelled)

    def test_read(self) -> None:
        """A pin is read as it is written, blanks around it apart."""
        pin = pin_of_key(b"key")
        self.assertEqual(read_pin(f" {pin}\n"), pin)

    def test_refused(self) -> None:
        """Hashes of other kinds, lengths and alphabets are no pins."""
        good = pin_of_key(b"key").removeprefix("sha256:")
        for bad in (good, f"sha1:{good}", f"sha256:{good[:-2]}", f"sha256:{good}A", "sha256:", ""):
            self.assertRaises(ValueError, read_pin, bad)
        self.assertRaises(ValueError, read_pin, "sha256:" + "_" * 43 + "=")

    def test_one_spelling(self) -> None:
        """Two texts that decode to one hash are one pin, so that comparing texts is enough."""
        self.assertEqual(
            read_pin("sha256:" + "A" * 42 + "B="), read_pin("sha256:" + "A" * 43 + "=")
        )
