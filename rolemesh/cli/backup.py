"""`rolemesh backup`: all that makes a gateway what it is, in one private file."""

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define, field

import rolemesh
from rolemesh.cli import archive
from rolemesh.cli.archive import CONFIG, ELSEWHERE, Entry, Manifest, entry, write_archive
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.locate import GATEWAY_FILE, find_config, find_state
from rolemesh.config.problems import ConfigError
from rolemesh.gateway.store.interface import NewerSchema, StoreFailed
from rolemesh.gateway.store.places import DATABASE
from rolemesh.gateway.store.sqlite_file import SqliteFile


class CannotBackUp(Exception):
    """Why not, and what to do."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `backup` to the commands; its `run` is in the arguments that the parser returns."""
    does = "pack a gateway into one private file, while it runs or not, for `rolemesh restore`"
    parser = subparsers.add_parser("backup", help=does, description=does)
    parser.add_argument("file", type=Path, metavar="FILE", help="what to make, such as gw.tar.gz")
    parser.add_argument("--config", help="the gateway's configuration, when not at a usual place")
    parser.add_argument("--state", help="its state folder, when not the usual one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; 0, or 1 or 78 with the reason on standard error."""
    try:
        _back_up(arguments, time.time())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 78
    except (CannotBackUp, StoreFailed, NewerSchema) as error:
        print(f"rolemesh backup: {error}", file=sys.stderr)
        return 1
    except FileExistsError as error:
        print(f"rolemesh backup: {error.filename} is there already: name another", file=sys.stderr)
        return 1
    except BrokenPipeError:
        raise
    except OSError as error:
        print(f"rolemesh backup: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


@define
class _Asking(Mapping[str, str]):
    """The environment, and what was asked of it."""

    environ: Mapping[str, str]
    asked: dict[str, None] = field(factory=dict)

    def __getitem__(self, name: str) -> str:
        self.asked[name] = None
        return self.environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.environ)

    def __len__(self) -> int:
        return len(self.environ)


def _back_up(arguments: argparse.Namespace, now: float) -> None:
    places = os.environ, Path.cwd(), Path.home()
    config = find_config(GATEWAY_FILE, arguments.config, *places)
    environ = _Asking(os.environ)
    settings = load_gateway(config, environ)
    packed = _files(config, settings)
    if settings.store is None:
        packed |= _state(find_state(arguments.state, *places))
    manifest = Manifest(
        rolemesh.__version__,
        time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now)),
        f"{CONFIG}/{config.name}",
        tuple(packed),
        tuple(name for name in environ.asked if name != "HOME"),
        settings.store is not None,
    )
    write_archive(
        arguments.file, manifest, {each.name: content for each, content in packed.items()}, now
    )
    _tell(arguments.file, manifest)


def _files(config: Path, settings: GatewaySettings) -> dict[Entry, bytes]:
    """The configuration, and what it names, wherever that lies."""
    packed: dict[Entry, bytes] = {}
    for path in dict.fromkeys((config, *settings.files)):
        if not path.exists():
            raise CannotBackUp(f"{path}, which {config} names, is not there")
        content = path.read_bytes()
        packed[_entry(path, config.parent, content)] = content
    return packed


def _entry(path: Path, folder: Path, content: bytes) -> Entry:
    where, home = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    if where.is_relative_to(home):
        return entry(f"{CONFIG}/{where.relative_to(home)}", content)
    written = path.relative_to(folder) if path.is_relative_to(folder) else where
    return entry(f"{ELSEWHERE}/{where.relative_to('/')}", content, str(written))


def _state(folder: Path) -> dict[Entry, bytes]:
    """The database as it is at one moment."""
    if not (folder / DATABASE).exists():
        raise CannotBackUp(
            f"there is no {DATABASE} in {folder}: say with --state where the gateway keeps it"
        )
    with TemporaryDirectory(prefix="rolemesh-") as aside:
        copy = SqliteFile(Path(aside) / DATABASE)
        SqliteFile(folder / DATABASE).copy_to(Path(aside) / DATABASE)
        copy.update()  # which finds out whether all of it can be read
        content = copy.content()
    return {entry(archive.DATABASE, content): content}


def _tell(file: Path, manifest: Manifest) -> None:
    for each in manifest.entries:
        print(each.place or each.name)
    print(f"{file} holds these, and so all secrets of this gateway: keep it as safe as them.")
    if manifest.database:
        print(
            "Registrations, usage and perhaps keys are in the database, and not in here: it is"
            " backed up by its own means, or with `rolemesh store copy`."
        )
    if manifest.variables:
        print(f"The configuration also reads ${', $'.join(manifest.variables)}, not in here.")
    print(f"On the other host: rolemesh restore {file.name}")
