"""What this machine has to run models with: its GPUs, its memory, its llama-server."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from select import select
from time import monotonic

import msgspec
import psutil
from attrs import frozen

import rolemesh
from rolemesh.core.fit import Place
from rolemesh.core.report import GpuReport

OUR_LAUNCHER = ("-P", "-m", "rolemesh.demo.llama_server")

_PROGRAM = "llama-server"
_OF_HOME = (
    "llama.cpp/build/bin",
    "llama.cpp",
    "src/llama.cpp/build/bin",
    "git/llama.cpp/build/bin",
    ".local/bin",
    "bin",
)
_OF_ALL = (
    "/usr/local/bin",
    "/usr/bin",
    "/opt/llama.cpp/build/bin",
    "/opt/llama.cpp/bin",
    "/opt/llama.cpp",
    "/usr/local/lib/llama.cpp",
    "/home/linuxbrew/.linuxbrew/bin",
    "/app",
)

_HELPER = Path(rolemesh.__file__).parent / "node" / "nvml_helper.py"
_DEADLINE = 10.0  # seconds; a driver that was asleep takes some


class _Sample(msgspec.Struct):
    """One line of the helper."""

    gpus: tuple[GpuReport, ...] = ()
    error: str = ""


@frozen
class Machine:
    """What was found; `problem` is why there are no GPUs."""

    gpus: tuple[GpuReport, ...]
    problem: str
    host: Place
    cores: int


def look_at_machine(environ: Mapping[str, str]) -> Machine:
    """Read the machine; a driver that hangs costs its GPUs and some seconds."""
    memory = psutil.virtual_memory()
    gpus, problem = read_gpus(environ)
    host = Place("this machine", memory.available, memory.total, gpu=False)
    return Machine(gpus, problem, host, psutil.cpu_count(logical=False) or os.cpu_count() or 1)


def places(gpus: Sequence[GpuReport]) -> list[tuple[int, Place]]:
    """The GPUs whose memory is known, with their indexes."""
    found = []
    for gpu in gpus:
        if gpu.index is not None and gpu.memory_total and gpu.memory_used is not None:
            free = gpu.memory_total - gpu.memory_used
            found.append((gpu.index, Place(f"GPU {gpu.index}", free, gpu.memory_total)))
    return found


def read_gpus(
    environ: Mapping[str, str], deadline: float = _DEADLINE, helper: Path = _HELPER
) -> tuple[tuple[GpuReport, ...], str]:
    """The GPUs that NVML knows, and why there are none, asked in a process of its own."""
    command = [sys.executable, "-I", str(helper), "60"]
    try:
        line = _first_line(command, environ, deadline)
        sample = msgspec.json.decode(line, type=_Sample)
    except TimeoutError:
        return (), f"NVML did not answer within {deadline:g} s"
    except OSError as problem:
        return (), f"NVML could not be asked: {problem.strerror}"
    except msgspec.MsgspecError:
        return (), "the program that asks NVML ended without an answer"
    return sample.gpus, sample.error


def _first_line(command: Sequence[str], environ: Mapping[str, str], deadline: float) -> bytes:
    end, line = monotonic() + deadline, b""
    child = subprocess.Popen(
        command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    try:
        while not line.endswith(b"\n"):
            ready, _, _ = select([child.stdout], [], [], max(0.0, end - monotonic()))
            if not ready:
                raise TimeoutError
            piece = os.read(child.stdout.fileno(), 65536)
            if not piece:
                break
            line += piece
        return line
    finally:
        _abandon(child)


def _abandon(child: "subprocess.Popen[bytes]") -> None:
    """Kill it; one that the driver holds may outlive that, and is not waited for."""
    child.kill()
    with suppress(subprocess.TimeoutExpired):
        child.wait(1)
    if child.stdout is not None:
        child.stdout.close()


def find_llama_server(
    given: str | None, environ: Mapping[str, str], cwd: Path, home: Path
) -> tuple[str, ...] | None:
    """The program to run, with leading arguments: the given one, the PATH's, one of the usual
    places, or the one inside the wheel xllamacpp; None when there is none."""
    if given:
        found = shutil.which(given, path=environ.get("PATH"))
        return (str((cwd / found).resolve()),) if found else None
    on_path = shutil.which(_PROGRAM, path=environ.get("PATH", os.defpath))
    if on_path:
        return (str(Path(on_path).absolute()),)
    folders = [cwd, *(home / name for name in _OF_HOME), *map(Path, _OF_ALL)]
    usual = (folder / _PROGRAM for folder in folders)
    program = next((each for each in usual if each.is_file() and os.access(each, os.X_OK)), None)
    if program is not None:
        return (str(program.resolve()),)
    return (sys.executable, *OUR_LAUNCHER) if find_spec("xllamacpp") else None
