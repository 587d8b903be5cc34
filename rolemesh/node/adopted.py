"""A process that an earlier agent started: signalled and watched by its pidfd, as by its parent."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Exit, Output


@implementer(IReadDescriptor)
class Adopted:
    """Takes the place of a `Child`. Its end is told, but not how it ended: that only its parent
    could know. `handle` is a pidfd, and ours from now on."""

    def __init__(
        self,
        reactor: IReactorFDSet,
        pid: int,
        handle: int,
        output: Output | None,
        cutter: LineCutter,
        exited: Callable[[Exit], None],
    ) -> None:
        self.pid = pid
        self.output = output
        self._reactor = reactor
        self._handle = handle
        self._cutter = cutter
        self._exited = exited

    def watch(self) -> None:
        """Tell its end, and deliver what it writes until then."""
        self._reactor.addReader(self)
        if self.output is not None:
            self.output.start(self._cutter.feed)

    def leave(self) -> None:
        """Watch no more; it goes on."""
        self._look_away()
        if self.output is not None:
            self.output.leave()

    def terminate(self) -> None:
        """Ask it to end; a stopped process is woken to hear it."""
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it and its group, which is its own only as long as it is there."""
        with suppress(OSError):
            signal.pidfd_send_signal(self._handle, 0)
            os.killpg(self.pid, signal.SIGKILL)

    def fileno(self) -> int:
        return self._handle

    def logPrefix(self) -> str:
        return "adopted"

    def doRead(self) -> None:
        """It has ended: a pidfd is readable from then on."""
        self._look_away()
        if self.output is None:
            self._gone()
        else:
            self.output.finish().addBoth(lambda _: self._gone())

    def connectionLost(self, reason: Failure) -> None:
        """The reactor ends; the process goes on."""

    def _gone(self) -> None:
        self._cutter.flush()
        self._exited(Exit(None, None))

    def _signal(self, number: int) -> None:
        with suppress(OSError):
            signal.pidfd_send_signal(self._handle, number)

    def _look_away(self) -> None:
        self._reactor.removeReader(self)
        handle, self._handle = self._handle, -1
        with suppress(OSError):
            os.close(handle)
