"""`rolemesh restore`: a gateway out of the file that `rolemesh backup` made."""

import argparse
import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from shlex import quote
from tempfile import TemporaryDirectory
from uuid import uuid4

from attrs import frozen

from rolemesh.cli.archive import CONFIG, DATABASE, ELSEWHERE, BadArchive, Manifest, read_archive
from rolemesh.config.locate import GATEWAY_FILE, find_state
from rolemesh.config.private import leave_to_owner
from rolemesh.config.problems import printable
from rolemesh.gateway.store import places
from rolemesh.gateway.store.interface import NewerSchema, StoreFailed
from rolemesh.gateway.store.sqlite_file import SqliteFile
from rolemesh.state import StateError, StateFolder

_USUAL_FOLDER = Path("configs")


class CannotRestore(Exception):
    """Why not, and what to do."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `restore` to the commands; its `run` is in the arguments that the parser returns."""
    does = "unpack a gateway that `rolemesh backup` has packed"
    parser = subparsers.add_parser("restore", help=does, description=does)
    parser.add_argument("file", type=Path, metavar="FILE", help="what `rolemesh backup` made")
    parser.add_argument(
        "--config", metavar="FILE",
        help=f"where its configuration is to be (${GATEWAY_FILE.variable},"
        f" {_USUAL_FOLDER / GATEWAY_FILE.file}); other files go beside it",
    )  # fmt: skip
    parser.add_argument("--state", metavar="DIR", help="its state folder, when not the usual one")
    parser.add_argument(
        "--force", action="store_true", help="also where files are: these are set aside"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; 0, or 1 with the reason on standard error."""
    try:
        _restore(arguments, time.time())
    except BadArchive as error:
        print(f"rolemesh restore: {arguments.file}: {error}", file=sys.stderr)
        return 1
    except (CannotRestore, StoreFailed, NewerSchema, StateError) as error:
        print(f"rolemesh restore: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"rolemesh restore: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


@frozen
class _Home:
    """Where the files of an archive go: the configuration, and the state folder."""

    config: Path
    state: Path

    def place(self, name: str, manifest: Manifest) -> Path:
        """Where a file goes; its name was checked to lead nowhere else."""
        if name == manifest.config:
            return self.config
        if name == DATABASE:
            return self.state / places.DATABASE
        folder, _, rest = name.partition("/")
        beside = self.config.parent
        return (beside if folder == CONFIG else beside / ELSEWHERE) / rest


def _restore(arguments: argparse.Namespace, now: float) -> None:
    manifest, contents = read_archive(arguments.file)
    home = _home(arguments)
    where = {name: home.place(name, manifest) for name in contents}
    _must_be_free(where.values(), arguments.force)
    with StateFolder(home.state, places.GATEWAY).held():
        fresh = {where[name]: _renewed(name, content) for name, content in contents.items()}
        for path, content in fresh.items():
            _put(path, content, now)
    _tell(manifest, home, where.values())


def _must_be_free(wanted: Collection[Path], force: bool) -> None:
    if len(set(wanted)) < len(wanted):
        raise CannotRestore("two of its files would be one: name the configuration otherwise")
    taken = [path for path in wanted if os.path.lexists(path)]
    if taken and not force:
        verb = "is" if len(taken) == 1 else "are"
        raise CannotRestore(
            f"{', '.join(map(str, taken))} {verb} there already: --force sets aside what is there;"
            " --config and --state name other places"
        )


def _home(arguments: argparse.Namespace) -> _Home:
    given = arguments.config or os.environ.get(GATEWAY_FILE.variable)
    config = Path.cwd() / (given or _USUAL_FOLDER / GATEWAY_FILE.file)
    return _Home(config, find_state(arguments.state, os.environ, Path.cwd(), Path.home()))


def _renewed(name: str, content: bytes) -> bytes:
    """The database as this RoleMesh has it, which counts for itself: the one that it is a copy of
    may count on, and both be copied together one day."""
    if name != DATABASE:
        return content
    with TemporaryDirectory(prefix="rolemesh-") as folder:
        path = Path(folder) / places.DATABASE
        path.write_bytes(content)
        file = SqliteFile(path)
        file.update()
        with file.transaction() as cursor:
            file.tables.renew(cursor, uuid4().hex)
        return file.content()


def _put(path: Path, content: bytes, now: float) -> None:
    """A private file with that content, of the user whose folder it lies in."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    for end in ("", "-wal", "-shm"):
        if os.path.lexists(f"{path}{end}"):
            os.rename(f"{path}{end}", f"{path}.before-{stamp}{end}")
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        leave_to_owner(file.fileno(), path.parent)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _tell(manifest: Manifest, home: _Home, made: Iterable[Path]) -> None:
    """What others wrote into the archive can steer neither a terminal nor, pasted, a shell."""
    for line in (*map(str, made), *_next(manifest, home)):
        print(printable(line))


def _next(manifest: Manifest, home: _Home) -> Iterator[str]:
    yield f"This is the gateway of {manifest.made}, by RoleMesh {manifest.rolemesh}. Next:"
    for each in manifest.entries:
        if each.place is not None:
            there = os.path.normpath(home.config.parent / each.place)
            lies = str(home.place(each.name, manifest))
            yield f"- put what the configuration calls {each.place} in its place:"
            yield f"  install -D -m 600 {quote(lies)} {quote(there)}"
    if manifest.variables:
        yield f"- set ${', $'.join(manifest.variables)}, which the configuration reads"
    config, state = quote(str(home.config)), quote(str(home.state))
    yield f"- rolemesh check {config}"
    yield "- stop the gateway on the old host, and let its name or address lead here"
    yield f"- twistd -n rolemesh-gateway --config {config} --state {state}"
