"""Whether a model will fit on this machine now: its file's head against what is free."""

from collections.abc import Sequence
from pathlib import Path
from stat import S_ISREG

import psutil
from attrs import frozen

from rolemesh.config.node import Run
from rolemesh.core.fit import Fit, Place, Wish, fit
from rolemesh.core.gguf import PREFIX, Header, NotGguf, read_header
from rolemesh.core.naming import parts
from rolemesh.core.report import GpuProcess, GpuReport


@frozen
class Weights:
    """A model's file, or all files of one that is split; `size` in bytes."""

    header: Header
    size: int


class NoPlainFile(Exception):
    """What is no plain file is no model's either."""


def read_weights(file: Path) -> Weights:
    """Read its head alone. Waits for the disk.

    A file that is no GGUF is told by llama-server better than by us: its header is empty.

    :raises NoPlainFile: for a folder, or a pipe, which could make who opens it wait for ever.
    :raises OSError: when a file cannot be read.
    """
    if not S_ISREG(file.stat().st_mode):
        raise NoPlainFile("is no plain file")
    with file.open("rb") as opened:
        prefix = opened.read(PREFIX)
    try:
        header = read_header(prefix)
    except NotGguf:
        header = Header()
    return Weights(header, sum(file.with_name(part).stat().st_size for part in parts(file.name)))


def estimate(
    run: Run, weights: Weights, gpus: Sequence[GpuReport], ended: int | None = None
) -> Fit:
    """Whether it fits on these GPUs, or else in the machine's memory.

    `ended` is its last process: the sample may be older than that one's end. Where
    a GPU does not tell its memory, nobody knows.
    """
    wish = Wish(run.slots, run.context, run.args)
    place = _gpu_place(gpus, ended) if run.gpu.wanted else _host_place()
    if place is None or not weights.header.layers:
        return Fit(weights.size)
    return fit(weights.header, weights.size, wish, place)


def _gpu_place(gpus: Sequence[GpuReport], ended: int | None) -> Place | None:
    totals = [gpu.memory_total for gpu in gpus if gpu.memory_total]
    used = [gpu.memory_used for gpu in gpus if gpu.memory_used is not None]
    if not gpus or len(totals) < len(gpus) or len(used) < len(gpus):
        return None
    everybody = [each for gpu in gpus for each in gpu.processes or ()]
    ours = sum(each.memory or 0 for each in everybody if each.pid == ended)
    others = [each for each in everybody if each.pid != ended]
    name = "GPU " + ", ".join(str(gpu.index) for gpu in gpus)
    total = sum(totals)
    return Place(name, total - sum(used) + ours, total, _held(others), parts=len(gpus))


def _held(processes: Sequence[GpuProcess]) -> tuple[tuple[str, int], ...]:
    """By name, the most first: a program may have many processes."""
    sums: dict[str, int] = {}
    for each in processes:
        name = each.name or f"process {each.pid}"
        sums[name] = sums.get(name, 0) + (each.memory or 0)
    return tuple(sorted(sums.items(), key=lambda item: -item[1]))


def _host_place() -> Place:
    memory = psutil.virtual_memory()
    return Place("this machine", memory.available, memory.total, gpu=False)
