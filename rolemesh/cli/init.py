"""`rolemesh init`: look at this machine, and write configurations that run."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rolemesh.cli.check import check_file
from rolemesh.cli.first_files import Mesh, gateway_text
from rolemesh.cli.program_options import Helps
from rolemesh.cli.survey import Impossible, Looked, Survey, survey
from rolemesh.config.locate import GATEWAY_FILE, NODE_FILE

_NODE, _GATEWAY = NODE_FILE.file, GATEWAY_FILE.file


class Kept(Exception):
    """A file stands where one would be written."""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "init",
        help="look at this machine, and write configurations that run",
        description="Finds GPUs, llama-server and models (GGUF files), and writes models.yaml and"
        " node_agent.yaml. Files that are there stay as they are, without --force.",
    )
    command.set_defaults(run=run)
    add_look_arguments(command)
    command.add_argument("--force", action="store_true", help="write over files that are there")


def add_look_arguments(command: argparse.ArgumentParser) -> None:
    """Where to write, and where to look."""
    command.add_argument(
        "--dir", type=Path, help="for the files (default: ./configs if there, ~/.config/rolemesh)"
    )
    command.add_argument(
        "--models", type=Path, nargs="+", default=[], metavar="DIR", help="more folders to search"
    )
    command.add_argument("--llama-server", metavar="PATH", help="your own llama-server")


def run(arguments: argparse.Namespace) -> int:
    """Write what is missing; 0, or 1 with what to do first."""
    folder = folder_of(arguments.dir)
    try:
        code = write_first_files(looked_of(arguments), folder, force=arguments.force)
    except (Impossible, Kept) as reason:
        print(f"rolemesh init: {reason}", file=sys.stderr)
    except OSError as error:
        print(f"rolemesh init: {error.filename}: {error.strerror}", file=sys.stderr)
    else:
        say("Next: rolemesh up" if code == 0 else "Next: mend these, then rolemesh up")
        return code
    return 1


def looked_of(arguments: argparse.Namespace) -> Looked:
    """Where a command's arguments say to look."""
    places = os.environ, Path.cwd(), Path.home()
    return Looked(*places, arguments.models, arguments.llama_server)


def folder_of(given: Path | None) -> Path:
    """Where configurations are written."""
    if given is not None:
        return given
    here = Path("configs")
    return here if here.is_dir() else Path.home() / ".config" / "rolemesh"


def write_first_files(
    looked: Looked, folder: Path, wanted: Sequence[str] = (_GATEWAY, _NODE), force: bool = False
) -> int:
    """Write those of the files that are wanted and not there, and check them; the exit code.

    :raises Kept: when all of them are there.
    :raises Impossible: when something is missing without which nothing runs.
    """
    absent = [name for name in wanted if force or not (folder / name).exists()]
    if not absent:
        raise Kept(f"{' and '.join(wanted)} in {folder} stay as they are (--force replaces them)")
    say("Looking at this machine")
    found = survey(looked, say)
    for name in absent:
        write(folder / name, _text_of(name, found))
    return _checked([folder / name for name in absent])


def _text_of(name: str, found: Survey) -> str:
    if name == _NODE:
        return found.node_text(Mesh())
    return gateway_text(list(dict.fromkeys(choice.model for choice in found.plan.chosen)))


def write(path: Path, text: str) -> None:
    """Put a file in its place, whole; nobody but its owner may write it.

    :raises OSError: when that cannot be done.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text)
    new.chmod(0o644)
    new.replace(path)
    say(f"Wrote {path}")


def _checked(paths: Sequence[Path]) -> int:
    helps = Helps(os.environ)
    return max(check_file(path, os.environ, helps) for path in paths)


def say(line: str) -> None:
    print(line, flush=True)
