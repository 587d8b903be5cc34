"""A small program of ours, run as a real process under twistd."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parents[2]
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")
PATIENCE = 90  # seconds; only a broken program takes them

PLUGIN = """
from twisted.application.service import ServiceMaker
probe = ServiceMaker("probe", "probe", "A program to test.", "probe")
"""

PROGRAM = """
import os
from pathlib import Path
from twisted.application.service import MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from rolemesh.config.problems import ConfigError, Position, Problem
from rolemesh.service.listening import Listening
from rolemesh.service.options import ServiceOptions
from rolemesh.service.signals import Signals
from rolemesh.systemd import Systemd

log = Logger()

class Options(ServiceOptions):
    config_file = "probe.yaml"
    config_variable = "PROBE_CONFIG"

    def load(self, path):
        words = path.read_text().split()
        if "wrong" in words:
            raise ConfigError(
                Problem(path.name, Position(line), "cannot be") for line in (1, 2)
            )
        return words

class Draining(Service):
    def __init__(self, reactor, ends):
        self.reactor, self.ends = reactor, ends

    def stopService(self):
        log.info("draining")
        return deferLater(self.reactor, 0.2, log.info, "drained") if self.ends else Deferred()

def makeService(options):
    from twisted.internet import reactor
    def reload():
        log.info("reloading", **{"probe.key": "rmk_abcdef"})
        if "stubborn" in options.settings:
            raise ValueError("no, thank you")
    parent = MultiService()
    for part in (
        Signals(reactor, reload, lambda: print("hurried"), Systemd(reactor, {}, 0)),
        Draining(reactor, "stuck" not in options.settings),
        Listening(reactor, [(word, Factory()) for word in options.settings if ":" in word]),
    ):
        part.setServiceParent(parent)
    reactor.callWhenRunning(log.info, "running")
    return parent
"""


class Program:
    """A process of the probe, in a folder of its own."""

    def __init__(self, folder: Path, arguments: tuple[str, ...]) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        self.process = subprocess.Popen(
            [*TWISTD, *arguments],
            cwd=folder,
            env={**environment, "HOME": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict[str, Any]] = []
        self._killer = Timer(PATIENCE, self.process.kill)
        self._killer.start()

    def until(self, message: str) -> None:
        """Read the log as far as a line with this in its message."""
        for line in self._log():
            if message in line["message"]:
                return
        raise AssertionError(f"{message!r} was not logged: {self.end()}")

    def end(self) -> tuple[int, list[str]]:
        """Read to the end: the exit code, and the lines on standard error."""
        assert self.process.stderr is not None
        for _ in self._log():
            pass
        errors = self.process.stderr.read().splitlines()
        return self.process.wait(), errors

    def close(self) -> None:
        """Kill it, should it still live."""
        self._killer.cancel()
        with self.process:
            self.process.kill()

    def _log(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for text in self.process.stdout:
            self.lines.append(json.loads(text))
            yield self.lines[-1]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines]


class Case(SynchronousTestCase):
    """Starts the probe; whatever a test leaves running is killed."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "twisted/plugins").mkdir(parents=True)
        (self.folder / "twisted/plugins/probe_plugin.py").write_text(PLUGIN)
        (self.folder / "probe.py").write_text(PROGRAM)

    def start(self, settings: str = "", *, twistd: tuple[str, ...] = ("-n",)) -> Program:
        (self.folder / "probe.yaml").write_text(settings)
        return self.twistd(*twistd, "probe", "--config", "probe.yaml", "--state", "state")

    def twistd(self, *arguments: str) -> Program:
        program = Program(self.folder, arguments)
        self.addCleanup(program.close)
        return program
