"""Whether all of a model is on the disk: a download that goes on looks like a model otherwise."""

from pathlib import Path

from rolemesh.core.gguf import PREFIX, NotGguf
from rolemesh.core.gguf_size import Longer, needed_size
from rolemesh.core.naming import parts

_MORE = 4  # times as much is read of a head that goes on
_LONGEST_HEAD = 64 * PREFIX  # the largest vocabularies take a quarter of that


class NotWhole(Exception):
    """A model's file is shorter than its own head says; tells by how much."""


class Wholes:
    """Which models are whole; a file that did not change since is not read again."""

    def __init__(self) -> None:
        self._whole: dict[Path, tuple[int, ...]] = {}

    def check(self, file: Path) -> None:
        """Look at the file, or at all files of a model that is split. Waits for the disk.

        What is no GGUF file passes: others tell that better.

        :raises NotWhole: when a file is too short.
        :raises OSError: when one is not there, or cannot be read.
        """
        names = parts(file.name)
        for part in map(file.with_name, names):
            status = part.stat()
            mark = status.st_ino, status.st_size, status.st_mtime_ns
            if self._whole.get(part) != mark:
                _must_be_whole(part, status.st_size, f"{part.name} " if len(names) > 1 else "")
                self._whole[part] = mark


def _must_be_whole(part: Path, size: int, name: str) -> None:
    try:
        needed = _needed(part)
    except NotGguf:
        return
    except Longer:
        raise NotWhole(f"is not whole: {name}has {size} bytes, and its head is longer") from None
    if needed > size:
        raise NotWhole(f"is not whole: {name}has {size} of {needed} bytes")


def _needed(part: Path) -> int:
    """As `needed_size` has it; 0 of a head that is too long to be read for that."""
    with part.open("rb") as opened:
        head = opened.read(PREFIX)
        while True:
            try:
                return needed_size(head)
            except Longer:
                more = opened.read((_MORE - 1) * len(head))
                if not more:
                    raise
                head += more
                if len(head) > _LONGEST_HEAD:
                    return 0
