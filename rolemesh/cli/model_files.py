"""GGUF files on this machine: found by a walk that ends, and read no further than their head."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from rolemesh.core.gguf import PREFIX, Header, NotGguf, read_header
from rolemesh.core.naming import distinct, is_later_part, is_model, parts
from rolemesh.core.plan import Found
from rolemesh.wholeness import NotWhole, Wholes

DEEPEST = 8  # folders below one that is searched
MOST_ENTRIES = 50_000  # files and folders that are looked at in all
MOST_MODELS = 200
PATIENCE = 20.0  # seconds; a network folder may hang for longer, and then Ctrl-C is there

_OF_HOME = (
    "models",
    ".cache/llama.cpp",
    ".cache/huggingface/hub",
    ".lmstudio/models",
    ".cache/lm-studio/models",
    ".local/share/nomic.ai/GPT4All",
    "jan/models",
    "llama.cpp/models",
)
_OF_ALL = (
    "/srv/models",
    "/opt/models",
    "/models",
    "/mnt/models",
    "/var/lib/models",
    "/data/models",
)
_VARIABLES = ("ROLEMESH_MODELS", "LLAMA_CACHE", "HF_HUB_CACHE", "HF_HOME")


@frozen
class ModelFile:
    """A model on the disk; of a split one the first file."""

    path: Path
    found: Found


@frozen
class Shelf:
    """What a search found: models, where it looked, and what it left with the reason."""

    models: tuple[ModelFile, ...]
    folders: tuple[Path, ...]
    skipped: tuple[tuple[Path, str], ...] = ()
    ended_early: str = ""


def usual_folders(environ: Mapping[str, str], cwd: Path, home: Path) -> Sequence[Path]:
    """Where models usually are, and the environment says they are."""
    named = (Path(environ[name]) for name in _VARIABLES if environ.get(name))
    own = (home / name for name in _OF_HOME)
    return [cwd / "models", *named, *own, *map(Path, _OF_ALL)]


def search(folders: Sequence[Path], clock: Callable[[], float]) -> Shelf:
    """The models in these folders, as far as there are such folders."""
    there = [folder for folder in folders if folder.is_dir()]
    end = clock() + PATIENCE
    walk, wholes = _Walk(clock, end), Wholes()
    files = [file for folder in there for file in walk.files(folder)][:MOST_MODELS]
    models: list[tuple[Path, int, Header]] = []
    skipped: list[tuple[Path, str]] = []
    for file in files:
        try:
            size, header = _weights(file)
            if clock() < end:
                wholes.check(file)
            models.append((file, size, header))
        except (OSError, NotGguf, NotWhole, _Unwritable) as problem:
            skipped.append((file, _reason(problem)))
    names = distinct([file.name for file, _, _ in models])
    named = (
        ModelFile(file, Found(name, size, header))
        for name, (file, size, header) in zip(names, models, strict=True)
    )
    return Shelf(tuple(named), tuple(there), tuple(skipped), walk.ended_early)


class _Walk:
    """One search; files and folders that were seen, by whatever name, are not seen again."""

    def __init__(self, clock: Callable[[], float], end: float) -> None:
        self.ended_early = ""
        self._clock = clock
        self._end = end
        self._left = MOST_ENTRIES
        self._seen: set[tuple[int, int]] = set()

    def files(self, folder: Path, depth: int = 0) -> Iterator[Path]:
        """The models below a folder, in the order of their names; links are followed."""
        if depth > DEEPEST or not self._is_new(folder):
            return
        for entry in self._entries(folder):
            if self._over():
                return
            path = Path(entry.path)
            if path.is_dir():
                yield from self.files(path, depth + 1)
            elif _is_first_of_model(path) and self._is_new(path):
                yield path

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError:  # closed to us, or gone
            return []

    def _is_new(self, path: Path) -> bool:
        try:
            status = path.stat()
        except OSError:  # a link into nowhere, or a circle of them
            return False
        mark = status.st_dev, status.st_ino
        new = mark not in self._seen
        self._seen.add(mark)
        return new

    def _over(self) -> bool:
        self._left -= 1
        if self._left < 0:
            self.ended_early = f"{MOST_ENTRIES} files and folders were looked at"
        elif self._clock() > self._end:
            self.ended_early = f"it took longer than {PATIENCE:.0f} s"
        return bool(self.ended_early)


def _is_first_of_model(path: Path) -> bool:
    # A pipe or a device of such a name would never end, or hold who opens it.
    return is_model(path.name) and not is_later_part(path.name) and path.is_file()


class _Unwritable(Exception):
    """A path that cannot stand in a configuration."""


def _weights(file: Path) -> tuple[int, Header]:
    if not str(file).isprintable():
        raise _Unwritable("its path is not plain text, so rename it")
    with file.open("rb") as opened:
        header = read_header(opened.read(PREFIX))
    return sum(file.with_name(part).stat().st_size for part in parts(file.name)), header


def _reason(problem: Exception) -> str:
    if isinstance(problem, FileNotFoundError):
        return f"is not whole: {Path(problem.filename).name} is missing"
    return (isinstance(problem, OSError) and problem.strerror) or str(problem)
