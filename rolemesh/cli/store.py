"""`rolemesh store copy`: all that gateways keep, from one place to another."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path

from rolemesh.cli.databases import STORE, NoDatabase, database_url, server
from rolemesh.config.keybook import BookClosed
from rolemesh.config.problems import ConfigError
from rolemesh.gateway.store.contents import Contents, Copying, copying
from rolemesh.gateway.store.interface import NewerSchema, StoreFailed
from rolemesh.gateway.store.places import DATABASE, Database, Folder, KeyFile, Source, Target
from rolemesh.state import StateError

_PLACES = (
    f"a state folder, or postgresql://USER@HOST/NAME (with a password: env:{STORE} or file:PATH)"
)
_WRONG = (ConfigError, BookClosed, NoDatabase, StateError, OSError)


class CannotCopy(Exception):
    """Why not, and what to do instead."""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `store` to the commands; its `run` is in the arguments that the parser returns."""
    parser = subparsers.add_parser("store", help="copy what gateways keep to another place")
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    does = "copy registrations, keys, tokens and usage; again does no harm, the source stays"
    words = actions.add_parser("copy", help=does, description=does)
    words.add_argument(
        "--from", dest="sources", action="append", required=True, metavar="PLACE",
        help=f"{_PLACES}, or a key file; may be given again",
    )  # fmt: skip
    words.add_argument("--to", dest="target", required=True, metavar="PLACE", help=_PLACES)
    words.add_argument(
        "--merge", action="store_true", help="also where something else is kept already"
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the arguments say; 0, or 1 with the reason on standard error."""
    try:
        sources = list(map(_source, arguments.sources))
        copy(sources, _target(arguments.target), arguments.merge)
    except BrokenPipeError:
        raise
    except (CannotCopy, *_WRONG) as error:
        print(f"rolemesh store copy: {error}", file=sys.stderr)
        return 1
    return 0


def copy(sources: Sequence[Source], target: Target, merge: bool) -> None:
    """Do it, and say what was done."""
    found = [_read(source) for source in sources]
    plans: list[Copying] = []

    def choose(there: Contents) -> Contents:
        plans.append(copying(reduce(_together, found), there))
        if not merge:
            _must_be_alike(target, plans[-1])
        return plans[-1].wanted

    with _said_of(target):
        target.put(choose)
    print(f"new in {target}: {_counted(plans[-1].wanted)}")
    for line in _differences(plans[-1]):
        print(f"{target} {line}")


def _read(source: Source) -> Contents:
    with _said_of(source):
        found = source.read()
    print(f"in {source}: {_counted(found)}")
    return found


@contextmanager
def _said_of(place: object) -> Iterator[None]:
    try:
        yield
    except (StoreFailed, NewerSchema) as error:
        raise CannotCopy(f"{place}: {error}") from None


def _must_be_alike(target: Target, plan: Copying) -> None:
    if plan.own or plan.otherwise:
        raise CannotCopy(
            f"nothing was copied, because {target} {'; '.join(_differences(plan))}. --merge adds"
            " what it lacks; where both have something, the later registration, the higher figure"
            " and the key that is there stay"
        )


def _differences(plan: Copying) -> list[str]:
    found = (("has of its own", plan.own), ("has otherwise", plan.otherwise))
    return [f"{how} {', '.join(what)}" for how, what in found if what]


def _together(one: Contents, other: Contents) -> Contents:
    """Both, and where they differ as `copying` has it."""
    added = copying(other, one).wanted
    return Contents(
        {**one.nodes, **added.nodes}, {**one.keys, **added.keys}, {**one.counts, **added.counts}
    )


def _counted(contents: Contents) -> str:
    found = (f"{name}: {len(part)}" for name, part in contents.parts.items() if part)
    return ", ".join(found) or "nothing"


def _source(text: str) -> Source:
    path = _path(text)
    if path.is_file():
        return KeyFile(path)
    if path.is_dir() or _is_path(text):
        return _existing(Folder(path))
    return Database(server(database_url(text)))


def _target(text: str) -> Target:
    path = _path(text)
    if path.is_file():
        raise CannotCopy(f"{path} is a file: copy to a state folder or a database")
    if path.is_dir() or _is_path(text):
        return Folder(path)
    return Database(server(database_url(text)))


def _existing(folder: Folder) -> Folder:
    if not folder.path.is_dir():
        raise CannotCopy(f"there is no {folder.path}")
    if not (folder.path / DATABASE).exists():
        raise CannotCopy(f"{folder.path} is no state folder: there is no {DATABASE} in it")
    return folder


def _path(text: str) -> Path:
    if not text:
        raise CannotCopy("an empty word is no place: is a variable not set?")
    return Path(text)


def _is_path(text: str) -> bool:
    return "://" not in text and not text.startswith(("env:", "file:"))
