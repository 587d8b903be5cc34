"""The file that a daemon logs to: opened anew when it was moved away, never longer than a cap."""

import os
from contextlib import suppress
from pathlib import Path

CAP = 50 * 1000 * 1000  # bytes of the file, and of each older one
OLDER = 5


class OwnFile:
    """Stands behind a descriptor, which stays the same number whatever the file is."""

    def __init__(self, descriptor: int, path: Path, cap: int = CAP) -> None:
        self._descriptor = descriptor
        self._path = path
        self._cap = cap

    @classmethod
    def behind(cls, descriptor: int) -> "OwnFile | None":
        """The regular file that a descriptor leads to, None where there is no such."""
        with suppress(OSError):
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if path.is_file():
                return cls(descriptor, path)
        return None

    def reopen(self) -> None:
        """Go on in a file of the same name; where there can be none, in the one that it was."""
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fresh = os.open(self._path, flags, 0o600)
            os.dup2(fresh, self._descriptor, inheritable=False)
            os.close(fresh)

    def rotate_when_full(self) -> None:
        """Move a file that has reached the cap aside, to `.1` and so on, and begin another."""
        with suppress(OSError):
            if os.fstat(self._descriptor).st_size < self._cap:
                return
            for number in range(OLDER - 1, 0, -1):
                if self._older(number).exists():
                    self._older(number).replace(self._older(number + 1))
            self._path.replace(self._older(1))
            self.reopen()

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
