"""The lock of a state folder, also where the folder takes nothing."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.state import InUse, StateError, StateFolder


class StateFolderTests(SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name)

    def folder(self, program: str = "one") -> StateFolder:
        return StateFolder(self.path, program)

    def taking_nothing(self, number: int = errno.EROFS) -> Any:
        """No file can be made."""
        no = OSError(number, os.strerror(number))
        return mock.patch("rolemesh.state.os.open", side_effect=no)

    def test_L12_one_at_a_time(self) -> None:
        """The second is told who has it; another program may, and who comes after."""
        with self.folder().held():
            told = self.assertRaises(InUse, self.folder().hold)
            self.assertIn(f"in use by process {os.getpid()}", str(told))
            with self.folder("two").held():
                pass
        with self.folder().held():
            pass

    def test_A30_A35_a_folder_that_takes_nothing(self) -> None:
        """A full or read-only disk keeps nobody from starting, and still only one of each."""
        for number in (errno.EROFS, errno.ENOSPC):
            with self.taking_nothing(number):
                with self.folder().held(), self.folder("two").held():
                    self.assertRaises(InUse, self.folder().hold)
                with self.folder().held():
                    pass

    def test_A35_room_again_while_it_is_held(self) -> None:
        """Who started on a full disk is not joined by another once there is room."""
        with self.taking_nothing():
            held = self.folder().hold()
        self.assertRaises(InUse, self.folder().hold)
        os.close(held)
        with self.folder().held():
            pass

    def test_not_ours(self) -> None:
        """A folder that one may not use is told in a line."""
        with self.taking_nothing(errno.EACCES):
            told = self.assertRaises(StateError, self.folder().hold)
        self.assertEqual(str(told), f"the state folder {self.path}: Permission denied")
