"""Whether all of a model is on the disk."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh import wholeness
from rolemesh.wholeness import NotWhole, Wholes
from tests.doubles.weights import gguf


class WholeTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(content)
        return path

    def told(self, path: Path) -> str:
        with self.assertRaises(NotWhole) as caught:
            Wholes().check(path)
        return str(caught.exception)

    def test_whole(self) -> None:
        """One that is there, and what is no GGUF file, passes."""
        Wholes().check(self.write("m.gguf", gguf()))
        Wholes().check(self.write("m.gguf", b""))
        Wholes().check(self.write("m.gguf", b"hello"))

    def test_cut(self) -> None:
        """It is told how much is there, and of how much; within the head nobody knows that."""
        whole = gguf()
        size = len(whole)
        for there in (size - 1, size - 4000):
            path = self.write("m.gguf", whole[:there])
            self.assertEqual(self.told(path), f"is not whole: has {there} of {size} bytes")
        told = self.told(self.write("m.gguf", whole[:60]))
        self.assertEqual(told, "is not whole: has 60 bytes, and its head is longer")

    def test_long_head(self) -> None:
        """A large vocabulary is read in some steps, and one that is too large for that passes."""
        whole = gguf(words=1000)
        path = self.write("m.gguf", whole[:-1])
        self.patch(wholeness, "PREFIX", 64)
        self.assertIn(f"of {len(whole)} bytes", self.told(path))
        self.patch(wholeness, "_LONGEST_HEAD", 1000)
        Wholes().check(path)

    def test_split(self) -> None:
        """Each part of a split model must be there, and whole, and is named if it is not."""
        first = self.write("m-00001-of-00002.gguf", gguf())
        with self.assertRaises(FileNotFoundError):
            Wholes().check(first)
        self.write("m-00002-of-00002.gguf", gguf()[:-8])
        size = len(gguf())
        told = f"is not whole: m-00002-of-00002.gguf has {size - 8} of {size} bytes"
        self.assertEqual(self.told(first), told)
        self.write("m-00002-of-00002.gguf", gguf())
        Wholes().check(first)

    def test_only_what_changed_is_read(self) -> None:
        """A server that starts often has its file read once, until it is another one."""
        path, wholes = self.write("m.gguf", gguf()), Wholes()
        wholes.check(path)
        times = path.stat()
        with path.open("r+b") as opened:
            opened.write(gguf(numbers=2000)[:100])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        wholes.check(path)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
        with self.assertRaises(NotWhole):
            wholes.check(path)
