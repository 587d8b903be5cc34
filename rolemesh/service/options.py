"""The command line of a program, and what stands once it is read: settings and a state folder."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from twisted.python import usage

import rolemesh
from rolemesh.config.locate import Sought, find_config, find_state
from rolemesh.config.problems import ConfigError
from rolemesh.service.exits import LOCKED, MISCONFIGURED, OK, refuse
from rolemesh.state import InUse, StateError, StateFolder


class ServiceOptions(usage.Options):
    """The command line that both programs understand.

    A subclass names its file and implements `load`. Once parsed, `settings`, `config_path` and
    `state_dir` stand, and the state folder is locked until the process ends. What a user got wrong
    ends the program with 78, what another process holds with 75, each told in one line.
    """

    optParameters = [
        ["config", "c", None, "The configuration file."],
        ["state", None, None, "The folder for what must survive a restart."],
    ]

    config_file: ClassVar[str]
    config_variable: ClassVar[str]

    settings: Any
    config_path: Path
    state_dir: Path

    def load(self, path: Path) -> Any:
        """Read the settings from a file that exists; raises ConfigError with its `problems`."""
        raise NotImplementedError

    @property
    def program(self) -> str:
        """The name that was typed after `twistd`."""
        return (self.parent and self.parent.subCommand) or "rolemesh"

    def opt_version(self) -> NoReturn:
        """Show the version and exit."""
        print(f"{self.program} {rolemesh.__version__}")
        raise SystemExit(OK)

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            super().parseOptions(options)
        except usage.UsageError as error:
            refuse([f"{self.program}: {error} (--help lists the options)"])

    def parseArgs(self, *arguments: str) -> None:
        if arguments:
            raise usage.UsageError(f"what is {arguments[0]!r}? All is said by options")

    def postOptions(self) -> None:
        sought = Sought(self.config_file, self.config_variable)
        places = os.environ, Path.cwd(), Path.home()
        try:
            self.config_path = find_config(sought, self["config"], *places)
            self.settings = self.load(self.config_path)
        except ConfigError as error:
            refuse([str(error)])
        except OSError as error:
            refuse([f"{self.program}: {error.filename}: {error.strerror}"])
        self.state_dir = find_state(self["state"], *places)
        state = StateFolder(self.state_dir, self.program)
        self._hold(state)
        if self.parent is not None:
            _settle_twistd(self.parent, state)

    def _hold(self, state: StateFolder) -> None:
        try:
            state.hold()
            if not os.access(self.state_dir, os.W_OK):
                print(
                    f"{self.program}: the state folder {self.state_dir} takes nothing: what must"
                    " survive a restart will not",
                    file=sys.stderr,
                )
        except StateError as error:
            code = LOCKED if isinstance(error, InUse) else MISCONFIGURED
            refuse([f"{self.program}: {error}; choose another with --state"], code)


def _settle_twistd(twistd: usage.Options, state: StateFolder) -> None:
    """Have twistd write JSON lines, and a pidfile only for a daemon, unless the user said so."""
    foreground = twistd["nodaemon"] or twistd["debug"]
    if twistd["pidfile"] == twistd.defaults["pidfile"]:
        twistd["pidfile"] = "" if foreground else str(state.pidfile)
    if twistd["logger"] or twistd["syslog"]:
        return
    twistd["logger"] = "rolemesh.logs.json_lines"
    logfile = twistd["logfile"] or ("-" if foreground else str(state.log))
    if logfile != "-":
        _send_output_to(logfile)
        twistd["logger"] = "rolemesh.logs.json_file"


def _send_output_to(logfile: str) -> None:
    """Make a file this process's standard output, which is where the JSON lines go."""
    try:
        file = os.open(logfile, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    except OSError as error:
        refuse([f"cannot write the log {logfile}: {error.strerror}"])
    os.dup2(file, 1)
    os.close(file)
