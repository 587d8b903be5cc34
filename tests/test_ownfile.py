"""The file that a daemon logs to."""

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.ownfile import OwnFile


class OwnFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.path = folder.absolute() / "log"
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.addCleanup(os.close, self.descriptor)
        self.file = OwnFile(self.descriptor, self.path, cap=10)

    def write(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.parent.iterdir())

    def test_A31_a_deleted_file_is_there_again(self) -> None:
        """Under its name, and private."""
        self.path.unlink()
        self.file.reopen()
        self.write("new")
        self.assertEqual(self.path.read_text(), "new")
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)

    def test_A31_where_there_can_be_no_new_one_the_old_one_goes_on(self) -> None:
        """A folder that is gone costs no line."""
        gone = self.path.parent.with_name("gone")
        self.path.parent.rename(gone)
        self.file.reopen()
        self.write("still")
        self.assertEqual((gone / "log").read_text(), "still")

    def test_A31_a_full_file_is_moved_aside(self) -> None:
        """The newest is `.1`, and of the older ones five are kept."""
        for number in range(8):
            self.write(f"this is no {number}")
            self.file.rotate_when_full()
        self.assertEqual(self.names(), ["log", *(f"log.{number}" for number in range(1, 6))])
        self.assertEqual(self.path.read_text(), "")
        self.assertEqual(Path(f"{self.path}.1").read_text(), "this is no 7")

    def test_A31_a_file_of_fifty_megabytes_is_full(self) -> None:
        """Where nobody says otherwise, and not before."""
        file = OwnFile(self.descriptor, self.path)
        for size, names in ((49_999_999, ["log"]), (50_000_000, ["log", "log.1"])):
            os.truncate(self.path, size)  # of which the disk holds nothing
            file.rotate_when_full()
            self.assertEqual(self.names(), names)

    def test_A31_a_short_file_stays(self) -> None:
        """Below the cap nothing happens."""
        self.write("short")
        self.file.rotate_when_full()
        self.assertEqual(self.names(), ["log"])

    def test_what_is_no_file_has_none_behind_it(self) -> None:
        """A pipe or a terminal is not looked after."""
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.assertIsNone(OwnFile.behind(writer))
        found = OwnFile.behind(self.descriptor)
        assert found is not None
        self.path.unlink()
        found.reopen()
        self.assertTrue(self.path.exists())
