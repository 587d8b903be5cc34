"""The promises of `rolemesh.config.keybook`."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.keybook import BookClosed, FileBook
from rolemesh.config.keyfile import read_key_file
from rolemesh.config.problems import ConfigError
from rolemesh.core.keys import ENTROPY, KeyKind, mint, revoke

ONE, TWO = (mint(KeyKind.CLIENT, bytes([each]) * ENTROPY, 1_000_000)[1] for each in (1, 2))


class FileBookTests(SynchronousTestCase):
    """A key file as a book."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.book = FileBook(self.path)

    def test_begins_empty(self) -> None:
        """Where there is no file there are no keys, and the first change makes one."""
        self.assertEqual(self.book.read(), ())
        self.assertEqual(self.book.change(lambda records: ((*records, ONE), "made")), "made")
        self.assertEqual(read_key_file(self.path), (ONE,))

    def test_change(self) -> None:
        """What `change` returns is there afterwards, and nothing else."""
        self.book.change(lambda _: ((ONE, TWO), None))
        self.book.change(lambda records: ((revoke(each) for each in records[1:]), None))
        self.assertEqual(self.book.read(), (revoke(TWO),))

    def test_untouched(self) -> None:
        """A file in which nothing changes is not written."""
        self.book.change(lambda _: ((ONE,), None))
        before = self.path.stat().st_ino
        self.book.change(lambda records: (records, None))
        self.assertEqual(self.path.stat().st_ino, before)

    def test_out_of_reach(self) -> None:
        """A place that cannot be written, and a file that makes no sense, are told apart."""
        nowhere = FileBook(self.path / "no" / "keys.yaml")
        self.assertIn("No such", str(self.assertRaises(BookClosed, nowhere.change, None)))
        self.path.write_text("keys: {")
        self.path.chmod(0o600)
        self.assertRaises(ConfigError, self.book.read)
