"""What `rolemesh init` finds on a machine, what it makes of it, and how it tells that."""

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from time import monotonic

from attrs import frozen

from rolemesh.cli.first_files import Mesh, NodeText
from rolemesh.cli.machine import OUR_LAUNCHER, Machine, find_llama_server, look_at_machine, places
from rolemesh.cli.model_files import ModelFile, Shelf, search, usual_folders
from rolemesh.cli.program_options import Helps, Unheard
from rolemesh.config.problems import printable
from rolemesh.core.fit import GB
from rolemesh.core.plan import Choice, Plan, make_plan, shown_size

_FIRST_PORT, _PORTS, _LAST_PORT = 18100, 100, 60000
_TRIED_PORTS = 8  # of a range; agents take the first free ones
_SHOWN = 12  # models; a hoarder's other ones are counted

_NEEDED = ("--alias", "--parallel", "--metrics", "--slots")  # what the node agent passes

_WITHOUT_SERVER = (
    "  build llama.cpp and name its program with --llama-server PATH, or take the one inside a"
    " wheel: pip install 'rolemesh[demo]'"
)
_WITHOUT_MODELS = (
    "  put a .gguf file into ~/models (or run llama-server -hf OWNER/REPOSITORY once, which"
    " downloads one), or name a folder with --models DIR; a gateway alone needs none: see"
    " README.md, and twistd -n rolemesh-gateway"
)


class Impossible(Exception):
    """Nothing can be written, because something is missing; each line says what to do."""


@frozen
class Looked:
    """Where to look: folders for models beside the usual ones, a program; None is the usual."""

    environ: Mapping[str, str]
    cwd: Path
    home: Path
    models: Sequence[Path] = ()
    llama_server: str | None = None


@frozen
class Survey:
    """What was found and chosen."""

    machine: Machine
    llama_server: Sequence[str]
    shelf: Shelf
    plan: Plan

    def node_text(self, mesh: Mesh) -> str:
        """A node's file that runs what was chosen."""
        return NodeText(
            self.plan,
            {model.found.name: model.path for model in self.shelf.models},
            self.llama_server,
            mesh,
            free_ports(),
            {gpu.index: gpu.name for gpu in self.machine.gpus if gpu.index is not None},
        ).text()


def survey(looked: Looked, say: Callable[[str], None], alike: bool = False) -> Survey:
    """Look at the machine, saying what is found and chosen; `alike`: one model for all GPUs.

    :raises Impossible: when something is missing without which nothing runs.
    """
    machine = look_at_machine(looked.environ)
    _say_all(say, _about_gpus(machine))
    server = find_llama_server(looked.llama_server, looked.environ, looked.cwd, looked.home)
    say(f"  llama-server   {_about_server(server)}")
    _say_all(say, _doubts(server, Helps(looked.environ)))
    for folder in looked.models:
        if not (looked.cwd / folder).is_dir():
            raise Impossible(f"{folder} is no folder; --models wants folders with .gguf files")
    usual = usual_folders(looked.environ, looked.cwd, looked.home)
    folders = dict.fromkeys((looked.cwd / folder).resolve() for folder in (*looked.models, *usual))
    shelf = search(list(folders), monotonic)
    _say_all(say, _about_shelf(shelf))
    if server is None or not shelf.models:
        raise Impossible("\n".join(_missing(server, shelf, looked)))
    plan = make_plan(
        [model.found for model in shelf.models], places(machine.gpus), machine.host, alike
    )
    _say_all(say, _about_plan(plan))
    if not plan.chosen:
        raise Impossible("none of these models can run here; get a smaller one, then again")
    return Survey(machine, server, shelf, plan)


def free_ports(first: int = _FIRST_PORT) -> str:
    """A range of ports that nobody seems to use; empty for the usual one."""
    while first < _LAST_PORT and not all(map(_is_free, range(first, first + _TRIED_PORTS))):
        first += _PORTS
    return "" if first == _FIRST_PORT else f"{first}-{first + _PORTS - 1}"


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def _say_all(say: Callable[[str], None], lines: Iterator[str]) -> None:
    for line in lines:
        say(line)


def _about_gpus(machine: Machine) -> Iterator[str]:
    if not machine.gpus:
        why = f" ({machine.problem})" if machine.problem else ""
        free, total = _gb(machine.host.free), _gb(machine.host.total)
        yield f"  GPUs           none that NVML knows{why}"
        yield f"  memory         {free} of {total} GB free, {machine.cores} cores"
    for gpu in machine.gpus:
        if gpu.memory_total and gpu.memory_used is not None:
            free, total = _gb(gpu.memory_total - gpu.memory_used), _gb(gpu.memory_total)
            yield f"  GPU {gpu.index}          {gpu.name}, {free} of {total} GB free"
        else:
            yield f"  GPU {gpu.index}          {gpu.name}, does not tell its memory {gpu.reason}"


def _about_server(server: Sequence[str] | None) -> str:
    if server is None:
        return "none"
    if tuple(server[1:]) == OUR_LAUNCHER:
        return "none installed; the one inside the wheel xllamacpp will do"
    return " ".join(server)


def _doubts(server: Sequence[str] | None, helps: Helps) -> Iterator[str]:
    """Why a program may not do, found out before a model waits for it."""
    if server is None:
        return
    try:
        options = helps.options(server)
    except Unheard as reason:
        yield f"    it may not run: {reason}"
    else:
        lacks = [name for name in _NEEDED if name not in options]
        if lacks:
            yield f"    it is too old: it has no {' and no '.join(lacks)}"


def _about_shelf(shelf: Shelf) -> Iterator[str]:
    where = ", ".join(map(str, shelf.folders)) or "none of the usual folders is there"
    yield f"  models         {len(shelf.models)} ({where})"
    for model in shelf.models[:_SHOWN]:
        yield f"    {_about_model(model)}"
    if len(shelf.models) > _SHOWN:
        yield f"    and {len(shelf.models) - _SHOWN} more"
    for path, why in shelf.skipped:
        yield printable(f"    left out: {path}: {why}")
    if shelf.ended_early:
        yield f"    the search ended early: {shelf.ended_early}; name folders with --models"


def _about_model(model: ModelFile) -> str:
    found = model.found
    context = f", trained for {found.header.context} tokens" if found.header.context else ""
    return f"{found.name}: {shown_size(found.size)}{context}, {model.path}"


def _about_plan(plan: Plan) -> Iterator[str]:
    for choice in plan.chosen:
        yield f"  chosen         {choice.model.name} on {_where(choice)}: {choice.why}"
    for found, why in plan.left[:_SHOWN]:
        yield f"  not chosen     {found.name}: {why}"


def _where(choice: Choice) -> str:
    if choice.gpu is None:
        return "this machine"
    return "all GPUs" if choice.gpu == "all" else f"GPU {choice.gpu}"


def _missing(server: Sequence[str] | None, shelf: Shelf, looked: Looked) -> Iterator[str]:
    if server is None and looked.llama_server:
        yield f"{looked.llama_server} cannot be run; --llama-server wants the program's path"
    elif server is None:
        yield "there is no llama-server on PATH or in the usual places"
        yield _WITHOUT_SERVER
    if not shelf.models:
        yield "there is no model"
        yield _WITHOUT_MODELS


def _gb(size: float) -> str:
    return f"{size / GB:.1f}"
