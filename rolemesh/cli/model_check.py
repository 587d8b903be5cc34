"""The models that a node's file names: whether all of each is there."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rolemesh.cli.entry_places import entries_of
from rolemesh.config.node import NodeSettings
from rolemesh.config.problems import ConfigError, Problem
from rolemesh.wholeness import NotWhole, Wholes


def check_models(path: Path, settings: NodeSettings, environ: Mapping[str, str]) -> None:
    """Look at each file, and at all parts of those that are split.

    :raises ConfigError: with every one that is not whole.
    """
    if problems := list(_problems(path, settings, environ)):
        raise ConfigError(problems)


def _problems(path: Path, settings: NodeSettings, environ: Mapping[str, str]) -> Iterator[Problem]:
    wholes = Wholes()
    for entry, run in entries_of(path, settings, environ):
        at = entry.optional("file") or entry.child("model")
        try:
            wholes.check(run.file)
        except NotWhole as told:
            yield from at.wrong(f"{run.file} {told}").problems
        except FileNotFoundError as missing:
            yield from at.wrong(f"there is no file {missing.filename}").problems
        except OSError as error:
            yield from at.wrong(f"{run.file} cannot be read: {error.strerror}").problems
