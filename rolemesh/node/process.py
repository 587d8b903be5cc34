"""One operating system process: how it is run, what it says, how it ends."""

import fcntl
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.interfaces import IProcessTransport, IReactorProcess, IReadDescriptor
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from rolemesh.node.logs import LineCutter

PIPE = 1024 * 1024  # bytes; a server goes on writing while the agent is held up
READS = 160  # of 8 KiB each: more than a pipe holds
LAUNCHER = Path(__file__).with_name("launcher.py")


@frozen
class Exit:
    """How a process ended: one of the two is None."""

    code: int | None
    signal: int | None


class Output(Protocol):
    """Where a process writes that is to outlive us; `node.logfile.LogFile` is one."""

    descriptor: int

    def start(self, deliver: Callable[[bytes], None]) -> None:
        """Deliver what is written from now on."""

    def finish(self) -> Deferred[None]:
        """Deliver the rest. Fires when that is done, or cannot be."""

    def leave(self) -> None:
        """Read no more; whoever writes goes on."""


class Child(ProcessProtocol):
    """A process in a session of its own.

    `exited` is called once, when the process is gone and what it last said has been read; whoever
    else holds its pipes does not delay that. One with an `output` writes there, and lives on when
    we end.
    """

    transport: IProcessTransport

    def __init__(self, out: LineCutter, err: LineCutter, exited: Callable[[Exit], None]) -> None:
        self._streams = {1: out, 2: err}
        self._exited = exited
        self.output: Output | None = None
        self.pid = 0

    def connectionMade(self) -> None:
        self.pid = self.transport.pid or 0
        self.transport.closeStdin()
        for pipe in self._pipes():
            _widen(pipe)
        if self.output is not None:
            self.output.start(self._streams[1].feed)

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._streams[childFD].feed(data)

    def processExited(self, reason: Failure) -> None:
        if self.output is not None:
            self._signal_group(signal.SIGKILL)
            self.output.finish().addBoth(lambda _: self._gone(reason))
            return
        self._read_last_words()
        self._signal_group(signal.SIGKILL)  # what it forked must not keep its port or its GPU
        self._gone(reason)

    def leave(self) -> None:
        """Read no more; one with an output goes on."""
        if self.output is not None:
            self.output.leave()

    def _gone(self, reason: Failure) -> None:
        for stream in self._streams.values():
            stream.flush()
        self._exited(_exit_of(reason))

    def terminate(self) -> None:
        """Ask it to end; a stopped process is woken to hear it."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and all that it forked."""
        self._signal(signal.SIGKILL)
        self._signal_group(signal.SIGKILL)

    def _read_last_words(self) -> None:
        """Take what the pipes still hold; the cause of the end is in it."""
        for pipe in self._pipes():
            _empty(pipe)
        self.transport.loseConnection()  # another holder of the pipes must not keep them open

    def _pipes(self) -> list[Any]:
        """Those that we read."""
        pipes: Mapping[int, object] = getattr(self.transport, "pipes", {})
        return [pipe for pipe in pipes.values() if IReadDescriptor.providedBy(pipe)]

    def _signal(self, number: int) -> None:
        with suppress(ProcessExitedAlready):
            self.transport.signalProcess(number)

    def _signal_group(self, number: int) -> None:
        if self.pid:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)


def _widen(pipe: Any) -> None:
    """As far as the machine lets one user have; elsewhere than on Linux pipes are as they are."""
    with suppress(OSError):
        if sys.platform == "linux":
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE)


def _empty(pipe: IReadDescriptor) -> None:
    for _ in range(READS):
        if pipe.doRead() is not None:  # its end
            return


def _exit_of(reason: Failure) -> Exit:
    if isinstance(reason.value, ProcessTerminated):
        return Exit(reason.value.exitCode, reason.value.signal)
    return Exit(0, None)


def run_child(
    reactor: IReactorProcess, child: Child, command: Sequence[str], env: Mapping[str, str]
) -> None:
    """Run a program through the launcher, so that it cannot outlive this process, unless it has an
    `output` beyond it.

    The program's own absence shows as an exit; to be called from the main thread, whose end is
    what the kernel takes for the agent's.

    :raises OSError: when not even the launcher can be run.
    """
    agent = os.getpid() if child.output is None else 0
    args = [sys.executable, "-I", "-S", str(LAUNCHER), str(agent), *command]
    fds: dict[int, Any] | None = None
    if child.output is not None:
        fds = {0: "w", 1: child.output.descriptor, 2: child.output.descriptor}
    reactor.spawnProcess(child, sys.executable, args, env=dict(env), childFDs=fds)
