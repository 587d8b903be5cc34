"""Readers of the `run` entries of a node's file: one llama-server each."""

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import field, frozen

from rolemesh.config.argv import instead_of_argument, instead_of_variable
from rolemesh.config.files import folder, path, status_of
from rolemesh.config.problems import ConfigError, Gather, quoted
from rolemesh.config.reading import Place, Reader, entries, listed, read, settings
from rolemesh.config.roles import MOST_SLOTS
from rolemesh.config.scalars import (
    is_variable,
    model_name,
    plain_name,
    role_name,
    size,
    text,
    whole,
    word,
)

MOST_RUNS = 16  # as many backends as a report of a node may have
_ID_LENGTH = 64


@frozen
class GpuChoice:
    """Which GPUs a llama-server may see: indexes, UUIDs or parts of names; `all`; or `none`.

    Without any of these the machine's own setting holds.
    """

    names: tuple[str | int, ...] = ()
    all: bool = False
    none: bool = False

    @property
    def wanted(self) -> bool:
        """Whether it asks for a GPU."""
        return self.all or bool(self.names)


@frozen
class Run:
    """One llama-server to keep alive.

    `id` names the backend in the mesh; `context` is tokens per request, 0 for the model's own;
    `llama_server` is the program and its leading arguments. `absent`: something that it names was
    not there when this was read.
    """

    id: str
    model: str
    file: Path
    gpu: GpuChoice = GpuChoice()
    slots: int = 1
    context: int = 0
    roles: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    llama_server: tuple[str, ...] = ("llama-server",)
    env: Mapping[str, str] = field(factory=dict, hash=False, repr=False)
    absent: bool = field(default=False, eq=False)


def runs(place: Place) -> tuple[Run, ...]:
    """All entries, each with an id of its own."""
    found = listed(_entry, most=MOST_RUNS)(place)
    _check_ids(found, place)
    return tuple(Run(**each) for each in _with_ids(found))


def program(place: Place) -> tuple[str, ...]:
    """A program and its leading arguments; one with a `/` is a path and must exist."""
    name, *leading = listed(word, least=1)(place)
    first = place.child(0) if isinstance(place.value, list) else place
    if "/" not in name:
        return (name, *leading)
    found = path(first)
    with first.patiently():
        if status_of(found, first) is None:
            raise first.wrong(f"there is no program {found}")
    return (str(found), *leading)


def _entry(place: Place) -> dict[str, Any]:
    """What a `Run` is made of, but for an `id` that the file does not give."""
    found: dict[str, Any] = {}
    gather, warned = Gather(), len(place.document.warnings)
    with gather:
        found.update(settings(place, RUN_KEYS, required=("model",)))
    with gather:
        found["file"] = _weights(place)
    with gather:
        if "llama_server" not in found:
            found["llama_server"] = _of_all_entries(place, "llama_server", program)
    gather.finish()
    found["absent"] = len(place.document.warnings) > warned
    return {key: value for key, value in found.items() if value is not None}


def _of_all_entries(place: Place, key: str, reader: Reader[Any]) -> Any:
    """What the file says for all entries beside `run`, None when it says nothing."""
    given = Place(place.document, (), place.document.data).optional(key)
    return read(given, reader) if given else None


def _weights(place: Place) -> Path:
    """The entry's model file, by its name or else by its model's."""
    named = place.optional("file")
    at = named or place.optional("model")
    if at is None:
        raise ConfigError([])  # that 'model' is missing is told already
    name = read(at, text) if named else f"{read(at, model_name)}.gguf"
    home = _of_all_entries(place, "models_dir", folder) or place.document.folder
    found = path(at, home, name)
    with at.patiently():
        _check_weights(found, at)
    return found


def _check_weights(found: Path, at: Place) -> None:
    if status_of(found, at) is None:
        raise at.wrong(f"there is no file {found}{_neighbour(found)}")
    if found.is_dir():
        raise at.wrong(f"{found} is a folder, not a model's file")
    if not found.is_file():  # who opens a pipe or a device may wait for ever
        raise at.wrong(f"{found} is no plain file, so no model's file")


def _neighbour(missing: Path) -> str:
    """The end of an error about a file that is not there: the file most like it."""
    try:
        names = {each.name.lower(): each.name for each in missing.parent.glob("*.gguf")}
    except OSError:
        names = {}
    nearest = difflib.get_close_matches(missing.name.lower(), names, 1, cutoff=0.0)
    if not nearest:
        return f" (there is no .gguf file at all in {missing.parent})"
    return f" - did you mean '{names[nearest[0]]}'?"


def _gpu(place: Place) -> GpuChoice:
    if place.value in ("all", "none"):
        return GpuChoice(all=place.value == "all", none=place.value == "none")
    names = listed(_gpu_name)(place)
    if len(set(names)) < len(names):
        raise place.wrong("names a GPU twice")
    return GpuChoice(names)


def _gpu_name(place: Place) -> str | int:
    value = place.value
    if isinstance(value, int | float) or re.fullmatch("[0-9]+", str(value)):
        return whole(0, 255)(place)
    name = text(place)
    if name in ("all", "none"):
        raise place.wrong(f"{place.shown} stands alone, not in a list")
    if re.fullmatch(r"[0-9, ]+", name):
        raise place.wrong(f"{place.shown} is not a GPU: write a list, such as [0, 1]")
    return name


def _argument(place: Place) -> str:
    argument = word(place)
    instead = instead_of_argument(argument)
    if instead:
        raise place.wrong(f"{place.shown} is RoleMesh's own argument: {instead}")
    if re.match(r"-\S* ", argument):
        raise place.wrong(f"{place.shown} is one argument: write [{', '.join(argument.split())}]")
    return argument


def _environment(place: Place) -> dict[str, str]:
    found: dict[str, str] = {}
    gather = Gather()
    for name, child in entries(place):
        with gather:
            found[_own_variable(name, child)] = read(child, word)
    gather.finish()
    return found


def _own_variable(name: str, place: Place) -> str:
    instead = instead_of_variable(name)
    if instead:
        raise place.wrong_key(f"{quoted(name)} is RoleMesh's own variable: {instead}")
    if not is_variable(name):
        raise place.wrong_key(f"{quoted(name)} cannot be the name of an environment variable")
    return name


def _check_ids(found: Sequence[Mapping[str, Any]], place: Place) -> None:
    gather = Gather()
    first: dict[str, int] = {}
    for index, each in enumerate(found):
        if "id" in each and first.setdefault(each["id"], index) != index:
            with gather:
                at = place.child(index).child("id")
                raise at.wrong(f"{at.shown} is already the id of {place.name}[{first[each['id']]}]")
    gather.finish()


def _with_ids(found: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries with ids: the given one, `gpuN` when it alone uses GPU N, else one by its model."""
    given = {each["id"] for each in found if "id" in each}
    by_gpu = Counter(_gpu_id(each) for each in found)
    alone = {name for name, count in by_gpu.items() if name and count == 1} - given
    taken = given | alone
    for each in found:
        name = each.get("id") or (_gpu_id(each) if _gpu_id(each) in alone else None)
        if name is None:
            name = _free(re.sub(r"[^A-Za-z0-9._-]", "-", each["model"]), taken)
            taken.add(name)
        yield {**each, "id": name}


def _gpu_id(entry: Mapping[str, Any]) -> str | None:
    names = entry.get("gpu", GpuChoice()).names
    return f"gpu{names[0]}" if len(names) == 1 and isinstance(names[0], int) else None


def _free(name: str, taken: set[str]) -> str:
    """A name that nobody has: itself, or with a number behind it."""
    free, number = name[:_ID_LENGTH], 2
    while free in taken:
        free = f"{name[: _ID_LENGTH - 4]}-{number}"
        number += 1
    return free


RUN_KEYS: Mapping[str, Reader[Any]] = {
    "model": model_name,
    "file": text,
    "gpu": _gpu,
    "slots": whole(1, MOST_SLOTS),
    "context": size,
    "roles": listed(role_name),
    "args": listed(_argument),
    "llama_server": program,
    "env": _environment,
    "id": plain_name,
}
