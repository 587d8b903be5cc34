"""The archive by which a gateway moves to another host: one private file with a list of what is in
it, against which everything is checked before anything is taken out."""

import errno
import gzip
import hashlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

FORMAT = 1
MANIFEST = "manifest.json"
CONFIG, ELSEWHERE = "config", "elsewhere"
_LONGEST_MANIFEST = 2**20
DATABASE = "state/state.db"
_FOLDERS = (CONFIG, ELSEWHERE)


class BadArchive(Exception):
    """Why a file is no whole archive, or none that this RoleMesh knows."""


class Entry(msgspec.Struct, frozen=True):
    """One file in an archive, `folder/…`; and what the configuration calls it, from its own
    folder on, where that leads out of it."""

    name: str
    sha256: str
    bytes: int
    place: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """What is in an archive. `made` is a time of day in UTC; `config` is the name of the
    configuration; `variables` are what it reads from the environment, which is not in here;
    `database` tells that the state is in a database elsewhere."""

    rolemesh: str
    made: str
    config: str
    entries: tuple[Entry, ...]
    variables: tuple[str, ...] = ()
    database: bool = False
    format: int = FORMAT


def entry(name: str, content: bytes, place: str | None = None) -> Entry:
    """What the list says of a file with that content."""
    return Entry(name, hashlib.sha256(content).hexdigest(), len(content), place)


def write_archive(
    path: Path, manifest: Manifest, contents: Mapping[str, bytes], now: float
) -> None:
    """Make a private file, whole or not at all.

    :raises FileExistsError: when there is one already.
    :raises OSError: when it cannot be made.
    """
    told = json.dumps(msgspec.to_builtins(manifest), indent=2).encode()
    with _new_file(path) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in {MANIFEST: told, **contents}.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(content), 0o600, int(now)
            archive.addfile(info, io.BytesIO(content))


def read_archive(path: Path) -> tuple[Manifest, Mapping[str, bytes]]:
    """The list of an archive, and the content of every file in it.

    :raises BadArchive: when anything is missing, changed, too much, or would lie elsewhere.
    :raises OSError: when it cannot be read.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            manifest = _manifest(archive)
            return manifest, _contents(archive, manifest)
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadArchive(f"it is damaged, or no archive of `rolemesh backup`: {error}") from None


@contextmanager
def _new_file(path: Path) -> Iterator[io.BufferedWriter]:
    """A private file that has its name once it is whole."""
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _manifest(archive: tarfile.TarFile) -> Manifest:
    """It comes first, so that no more is read of a file that is something else."""
    first = archive.next()
    if first is None or first.name != MANIFEST or not first.isreg():
        raise BadArchive("it is no archive of `rolemesh backup`")
    if first.size > _LONGEST_MANIFEST:
        raise BadArchive("its list is too long")
    told = _read(archive, first)
    try:
        version = msgspec.json.decode(told, type=dict[str, object]).get("format")
        if version != FORMAT:
            raise BadArchive(
                f"it has format {version}, and this RoleMesh knows {FORMAT}: restore it with the"
                " RoleMesh that made it, or a later one"
            )
        manifest = msgspec.json.decode(told, type=Manifest)
    except msgspec.MsgspecError as error:
        raise BadArchive(f"its list cannot be read: {error}") from None
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    names = [each.name for each in manifest.entries]
    configured = manifest.config in names and manifest.config.startswith(f"{CONFIG}/")
    if len(set(names)) < len(names) or not configured:
        raise BadArchive("its list makes no sense")
    for name in names:
        path = PurePosixPath(name)
        inside = len(path.parts) > 1 and path.parts[0] in _FOLDERS and ".." not in path.parts
        plain = str(path) == name and name.isprintable()
        if name != DATABASE and not (inside and plain):
            raise BadArchive(f"{name!r} would lie outside the folders of a gateway")


def _contents(archive: tarfile.TarFile, manifest: Manifest) -> Mapping[str, bytes]:
    expected = {each.name: each for each in manifest.entries}
    contents: dict[str, bytes] = {}
    while (member := archive.next()) is not None:
        told = expected.get(member.name)
        if told is None or member.name in contents or not member.isreg():
            raise BadArchive(f"{member.name!r} is not in its list")
        content = _read(archive, member) if member.size == told.bytes else b""
        if hashlib.sha256(content).hexdigest() != told.sha256:
            raise BadArchive(f"{member.name} is not what its list says")
        contents[member.name] = content
    if missing := sorted(expected.keys() - contents.keys()):
        raise BadArchive(f"{', '.join(missing)} is missing from it")
    return contents


def _read(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return file.read() if file is not None else b""
