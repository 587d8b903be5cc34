"""The clients, installed once into a cache folder that is named after their pinned versions."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.real.harness import need

HERE = Path(__file__).parent
NODE = HERE / "node"
LONGEST = 600.0  # seconds that an installation may take

_QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def python() -> Path:
    """A Python with the clients of `requirements.txt`; skips the test, or fails it, without."""
    folder, problem = _python()
    need(not problem, f"the Python clients ({problem})")
    return folder / "bin/python"


def node_modules() -> Path:
    """The folder of the packages of `node/package-lock.json`; skips or fails without."""
    folder, problem = _node()
    need(not problem, f"the Node clients ({problem})")
    return folder / "node_modules"


@cache
def _python() -> tuple[Path, str]:
    requirements = HERE / "requirements.txt"
    folder = _folder(f"python{sys.version_info.major}.{sys.version_info.minor}", requirements)
    python = str(folder / "bin/python")
    make = (sys.executable, "-m", "venv", "--clear", str(folder))
    install = (python, "-m", "pip", "install", *_QUIET, "--no-deps", "-r", str(requirements))
    return folder, _install(folder, make, install)


@cache
def _node() -> tuple[Path, str]:
    if not (shutil.which("node") and shutil.which("npm")):
        return Path(), "there is no node with npm"
    folder = _folder("node", NODE / "package-lock.json")
    copy = ("cp", str(NODE / "package.json"), str(NODE / "package-lock.json"), str(folder))
    install = ("npm", "ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund")
    return folder, _install(folder, copy, install)


def _folder(name: str, pins: Path) -> Path:
    cached = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cached / "rolemesh/tests" / f"{name}-{sha256(pins.read_bytes()).hexdigest()[:12]}"


def _install(folder: Path, *steps: Sequence[str]) -> str:
    """Take the steps that fill a folder, unless they were taken before; what went wrong, if so."""
    done = folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        for step in () if done.exists() else steps:
            if problem := _run(step):
                return problem
        done.touch()
    return ""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(argv: Sequence[str]) -> str:
    try:
        ran = subprocess.run(argv, capture_output=True, text=True, timeout=LONGEST)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return str(problem)
    return (ran.stderr.strip()[-300:] or f"exit {ran.returncode}") if ran.returncode else ""
