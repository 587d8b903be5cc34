"""The arguments in a node's file against what the program that gets them says it takes."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from time import monotonic
from typing import IO

from rolemesh.cli.entry_places import entries_of, item
from rolemesh.config.node import NodeSettings
from rolemesh.config.problems import ConfigError, Problem, did_you_mean, printable, quoted
from rolemesh.config.reading import Place
from rolemesh.core.options import read_help, unknown

DEADLINE = 20.0  # seconds; a build for GPUs loads their libraries first

_LONGEST_LINE = 300  # characters of what a program says
_LONGEST_HELP = 1 << 20  # bytes; that of llama-server has 60 KB

# What any llama-server has; a help text without it is somebody else's, or not understood.
_SURE = "--model"


class Unheard(Exception):
    """A program that does not tell its options; says why."""


class Helps:
    """What programs say of their options, each asked once for as long as its file is the same."""

    def __init__(self, environ: Mapping[str, str], deadline: float = DEADLINE) -> None:
        self._environ = {**environ, "CUDA_VISIBLE_DEVICES": ""}  # no GPU wakes up for this
        self._deadline = deadline
        self._heard: dict[object, Mapping[str, bool] | Unheard] = {}

    def options(self, program: Sequence[str]) -> Mapping[str, bool]:
        """The options of a program and its leading arguments.

        :raises Unheard: when it cannot be run, takes too long, or lists none.
        """
        key = self._mark(program)
        if key not in self._heard:
            self._heard[key] = self._ask(program)
        found = self._heard[key]
        if isinstance(found, Unheard):
            raise found
        return found

    def _mark(self, program: Sequence[str]) -> object:
        path = shutil.which(program[0], path=self._environ.get("PATH", os.defpath))
        status = Path(path).stat() if path else None
        return tuple(program), path, status and (status.st_mtime_ns, status.st_size)

    def _ask(self, program: Sequence[str]) -> Mapping[str, bool] | Unheard:
        name = Path(program[0]).name
        try:
            text = _what_it_says([*program, "--help"], self._environ, self._deadline)
        except TimeoutError:
            return Unheard(f"'{name} --help' takes longer than {self._deadline:g} s")
        except OverflowError:
            return Unheard(f"'{name} --help' says more than {_LONGEST_HELP} bytes")
        except OSError as problem:
            return Unheard(f"'{name} --help' cannot be run: {problem.strerror}")
        options = read_help(text)
        return options if _SURE in options else Unheard(_without_options(name, text))


def _what_it_says(command: Sequence[str], environ: Mapping[str, str], deadline: float) -> str:
    """What a program writes until it ends; nothing of it, or that it forked, is left then.

    :raises TimeoutError: when it takes longer.
    :raises OverflowError: when it says more than any help.
    :raises OSError: when it cannot be run.
    """
    with subprocess.Popen(
        command,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        try:
            return _read_all((child.stdout, child.stderr), monotonic() + deadline)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)


def _read_all(pipes: Sequence[IO[bytes]], end: float) -> str:
    """What comes out of pipes until all are closed, one after the other."""
    said = {pipe.fileno(): b"" for pipe in pipes}
    with DefaultSelector() as open_ones:
        for number in said:
            open_ones.register(number, EVENT_READ)
        while open_ones.get_map():
            ready = open_ones.select(max(0.0, end - monotonic()))
            if not ready or monotonic() > end:
                raise TimeoutError
            for key, _ in ready:
                piece = os.read(key.fd, 65536)
                said[key.fd] += piece
                if not piece:
                    open_ones.unregister(key.fd)
            if sum(map(len, said.values())) > _LONGEST_HELP:
                raise OverflowError
    return b"\n".join(said.values()).decode("utf-8", "replace")


def _without_options(name: str, text: str) -> str:
    """Such as a library that is missing: the last line tells it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = f": {printable(lines[-1])[:_LONGEST_LINE]}" if lines else ""
    return f"'{name} --help' lists no options{said}"


def check_arguments(
    path: Path, settings: NodeSettings, environ: Mapping[str, str], helps: Helps
) -> tuple[Problem, ...]:
    """Warnings, where a program could not be asked.

    :raises ConfigError: with every argument that a program does not know.
    """
    problems: list[Problem] = []
    warned: list[Problem] = []
    for entry, run in entries_of(path, settings, environ):
        if not run.args:
            warned += _absent(entry, run.llama_server[0], environ)
            continue
        args = entry.child("args")
        try:
            options = helps.options(run.llama_server)
        except Unheard as reason:
            warned += args.wrong(f"not checked: {reason}").problems
        else:
            problems += _unknown(args, run.args, options)
    if problems:
        raise ConfigError(problems)
    return tuple(warned)


def _absent(entry: Place, program: str, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """A warning about a program that is not installed, or not yet."""
    if shutil.which(program, path=environ.get("PATH", os.defpath)):
        return ()
    cure = "install it, or name it with llama_server:"
    return entry.wrong(f"there is no program {quoted(program)} on PATH: {cure}").problems


def _unknown(place: Place, args: Sequence[str], options: Mapping[str, bool]) -> Iterator[Problem]:
    for index in unknown(args, options):
        name = args[index].partition("=")[0]
        hint = did_you_mean(name, list(options)) if len(name) > 2 else ""
        hint = hint if hint.startswith(" - ") else ""  # all of them would be hundreds
        text = f"this llama-server has no argument {quoted(name)}{hint}"
        yield from item(place, index).wrong(text).problems
