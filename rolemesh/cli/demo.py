"""`rolemesh demo`: a whole mesh on this machine, with a toy model, in a minute."""

import argparse
import os
import shutil
import socket
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rolemesh.demo.household import Household

_INTRODUCTION = """\
RoleMesh demo: a gateway, a node agent and two real llama.cpp servers, all on this machine.
The toy model speaks random words, on purpose: it is generated here and has learned nothing.
For real answers: rolemesh demo --model FILE.gguf   (and --llama-server PATH for your own build)
"""
_INSTALL = "pip install 'rolemesh[demo]' (in a checkout: pip install -e '.[demo]')"
_SYSTEM = "install it with the system's packages (on Debian and Ubuntu OpenMP is libgomp1)"


class Impossible(Exception):
    """Why the demo cannot start, and what to do."""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("demo", help="a whole mesh on this machine, with a toy model")
    command.set_defaults(run=run)
    command.add_argument("--port", type=int, default=8000, help="of the gateway; 0: any free one")
    command.add_argument("--once", action="store_true", help="try it, and exit with 0 or 1")
    command.add_argument("--model", type=Path, metavar="FILE", help="your own GGUF file")
    command.add_argument("--llama-server", metavar="PATH", help="your own llama-server")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 0, or 1 with a line that says why not."""
    try:
        household = _household(arguments)
    except Impossible as reason:
        print(f"rolemesh demo: {reason}", file=sys.stderr)
        return 1
    from rolemesh.demo.run import perform

    print("" if arguments.model else _INTRODUCTION, flush=True)
    return perform(household, arguments.once)


def _household(arguments: argparse.Namespace) -> Household:
    model = _model(arguments.model)
    server = _llama_server(arguments.llama_server)
    _need(("xllamacpp",) * (server is None) + ("gguf", "numpy") * (model is None))
    return Household(_free(arguments.port), _cache(), model, server)


def _model(file: Path | None) -> Path | None:
    if file is None:
        return None
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as problem:
        raise Impossible(f"--model {file}: {problem.strerror}") from None
    if magic != b"GGUF":
        raise Impossible(f"--model {file} is not a GGUF file")
    return file.resolve()


def _llama_server(given: str | None) -> str | None:
    found = given and shutil.which(given)
    if given and not found:
        raise Impossible(f"{given} cannot be run; --llama-server wants the program's path")
    return str(Path(found).resolve()) if found else None


def _need(modules: tuple[str, ...]) -> None:
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise Impossible(f"{' and '.join(missing)} not installed; {_INSTALL}")
    for name in modules:
        try:
            import_module(name)
        except ImportError as problem:  # a library of the system, such as OpenMP
            raise Impossible(f"{name}: {problem}; {_SYSTEM}") from None


def _free(port: int) -> int:
    """The port, or any when it is 0, which nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as problem:
            reason = getattr(problem, "strerror", None) or "not a port"
            raise Impossible(f"port {port}: {reason}; choose another with --port") from None
        free: int = probe.getsockname()[1]
        return free


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rolemesh"
