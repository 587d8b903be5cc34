"""The `rolemesh` command: a module of this package for each of its words."""

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

import rolemesh
from rolemesh.cli import (
    backup,
    check,
    demo,
    drain,
    explain,
    init,
    invite,
    join,
    keys,
    logs,
    models,
    node,
    nodes,
    pki,
    restart,
    restore,
    resume,
    smoke,
    status,
    store,
    up,
    usage,
    why,
)
from rolemesh.config.problems import did_you_mean

COMMANDS = {
    "check": check,
    "keys": keys,
    "smoke": smoke,
    "demo": demo,
    "up": up,
    "init": init,
    "invite": invite,
    "join": join,
    "explain": explain,
    "why": why,
    "status": status,
    "nodes": nodes,
    "models": models,
    "usage": usage,
    "drain": drain,
    "resume": resume,
    "restart": restart,
    "logs": logs,
    "node": node,
    "store": store,
    "backup": backup,
    "restore": restore,
    "pki": pki,
}
NO, MISUSED, INTERRUPTED = 1, 2, 130


class _Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message} (--help lists what there is)\n")


def parser() -> argparse.ArgumentParser:
    """The command line, as every command registers itself on it."""
    whole = _Parser(prog="rolemesh", description=rolemesh.__doc__)
    whole.add_argument("--version", action="version", version=f"rolemesh {rolemesh.__version__}")
    words = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS.values():
        command.register(words)
    return whole


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    given = sys.argv[1:] if arguments is None else arguments
    whole = parser()
    word = next((each for each in given if not each.startswith("-")), None)
    if word is not None and word not in COMMANDS:
        whole.error(f"there is no command {word!r}{did_you_mean(word, list(COMMANDS))}")
    chosen = whole.parse_args(given)
    try:
        return int(chosen.run(chosen))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # who read the output has seen enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return NO


if __name__ == "__main__":
    sys.exit(main())
