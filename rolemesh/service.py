"""What both programs share under twistd: options, the state folder, signals, ports, exit codes."""

import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError, ReactorNotRunning
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger
from twisted.python import usage

import rolemesh
from rolemesh.config.locate import Sought, find_config, find_state
from rolemesh.config.problems import ConfigError
from rolemesh.state import InUse, StateError, StateFolder
from rolemesh.systemd import Systemd

OK, NO, LOCKED, MISCONFIGURED = 0, 1, 75, 78
ALLOCATIONS = 20_000  # more objects made than freed, after which Python looks for cycles

_log = Logger()


def refuse(problems: Iterable[str], code: int = MISCONFIGURED) -> NoReturn:
    """End the program before it runs; each problem is a line on standard error.

    Only for `postOptions` and `makeService`: later, twistd shows a traceback or hangs.
    """
    for problem in problems:
        print(problem, file=sys.stderr)
    raise SystemExit(code)


def leave(code: int) -> NoReturn:
    """End this process now with an exit code of ours, which twistd has no way to give.

    What was logged before is written first, as far as somebody reads it.
    """
    _log.info("the process ends with exit code {code}", code=code, log_last=True)
    os._exit(code)


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


class Signals(Service):
    """SIGTERM and SIGINT stop the reactor, so that the services drain, and the exit code is 0;
    the second one ends the process at once, after `hurry()`. SIGHUP calls `reload()`. systemd is
    told of each. SIGUSR1 opens the log file anew, where there is one.

    Twisted installs its own handlers later than it starts services, so these are set twice.
    """

    def __init__(
        self,
        reactor: Any,
        reload: Callable[[], None],
        hurry: Callable[[], None],
        systemd: Systemd,
    ) -> None:
        self._reactor = reactor
        self._systemd = systemd
        self._reload = reload
        self._hurry = hurry
        self._stopping = False

    def startService(self) -> None:
        super().startService()
        self._install()
        self._reactor.callWhenRunning(self._install)

    def _install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._soon(self._asked_to_stop, number))
        signal.signal(signal.SIGHUP, lambda _number, _: self._soon(self._asked_to_reload))
        signal.signal(signal.SIGUSR1, lambda _number, _: self._soon(_reopen_the_log))

    def _soon(self, act: Callable[..., None], *arguments: int) -> None:
        self._reactor.callFromThread(act, *arguments)

    def _asked_to_stop(self, number: int) -> None:
        name = signal.Signals(number).name
        if self._stopping:
            _log.warn("{signal} again: ending at once", signal=name)
            self._end()
        self._stopping = True
        _log.info("{signal}: finishing what is under way; once more ends at once", signal=name)
        self._systemd.stopping()
        stop(self._reactor)

    def _end(self) -> NoReturn:
        try:
            self._hurry()
        finally:
            leave(OK)

    def _asked_to_reload(self) -> None:
        self._systemd.reloading()
        try:
            self._reload()
        except Exception:
            _log.failure("the reload failed; what ran before goes on")
        self._systemd.ready()


def _reopen_the_log() -> None:
    _log.info("SIGUSR1: the log goes on here", log_reopen=True)


def keep_steady(reactor: Any) -> None:
    """Have a reactor that does not run yet measure by a clock that nobody sets.

    Twisted's own measure by the time of day, so that each timer and lease would move with it.
    """
    reactor.seconds = time.monotonic


def collect_less() -> None:
    """Have Python look for cycles more seldom, and not again among what stands by now.

    A request makes hundreds of objects, so that with Python's own settings a fifth of its time
    goes into looking at all the others.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(ALLOCATIONS)


def stop(reactor: Any) -> None:
    """Stop the reactor, also one that does not run yet or stops already."""
    with suppress(ReactorNotRunning):
        reactor.callWhenRunning(reactor.stop)


class Listening(Service):
    """Endpoints and what is served on each, all or none: one that cannot be had stops the reactor
    and the process ends with 1. `ports` are the open ones, in the order of the endpoints; who is in
    `on_open` is called when all are.
    """

    def __init__(self, reactor: Any, served: Iterable[tuple[str, IProtocolFactory]]) -> None:
        self._reactor = reactor
        self._served = [(text, _endpoint(reactor, text), factory) for text, factory in served]
        self._opening: Deferred[None] | None = None
        self.ports: list[IListeningPort] = []
        self.on_open: list[Callable[[], None]] = []

    def startService(self) -> None:
        super().startService()
        self._opening = Deferred.fromCoroutine(self._open())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self.stop())

    async def stop(self) -> None:
        """Accept no more; what was accepted goes on."""
        if self._opening is not None:
            self._opening.cancel()
        while self.ports:
            await _stopped(self.ports.pop())

    async def _open(self) -> None:
        for text, endpoint, factory in self._served:
            try:
                port = await endpoint.listen(factory)
            except CancelledError:
                return
            except Exception as error:
                self._fail(text, error)
                return
            self.ports.append(port)
            _log.info("listening on {address}", address=_shown(port.getHost()))
        for told in self.on_open:
            told()

    def _fail(self, endpoint: str, error: Exception) -> None:
        line = f"cannot listen on {endpoint}: {_reason(error)}; free it or choose another"
        _log.critical("{line}", line=line)
        print(line, file=sys.__stderr__, flush=True)
        self._reactor.addSystemEventTrigger("after", "shutdown", leave, NO)
        stop(self._reactor)


async def _stopped(port: IListeningPort) -> None:
    stopping = port.stopListening()
    if stopping is not None:
        await stopping


def _endpoint(reactor: Any, text: str) -> IStreamServerEndpoint:
    try:
        return serverFromString(reactor, text)
    except Exception as error:  # each kind of endpoint has its own ways to say no
        refuse([f"cannot listen on {text!r}: {error}; an endpoint is like tcp:8000:interface=::1"])


def _shown(address: object) -> str:
    match address:
        case IPv4Address(host=host, port=port):
            return f"{host}:{port}"
        case IPv6Address(host=host, port=port):
            return f"[{host}]:{port}"
        case _:
            return str(address)


def _reason(error: Exception) -> str:
    if isinstance(error, CannotListenError) and isinstance(error.socketError, OSError):
        return error.socketError.strerror or str(error)
    return str(error) or type(error).__name__
