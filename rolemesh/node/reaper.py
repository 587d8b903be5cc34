"""Takes note of the ends of processes that were left to us, as to the first one of a container."""

import ctypes
import os
import sys
from contextlib import suppress

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.process import reapProcessHandlers
from twisted.internet.task import LoopingCall

BEAT = 1.0  # seconds
_PR_GET_CHILD_SUBREAPER = 37


def inherits_orphans() -> bool:
    """Whether processes without a parent become our children."""
    if sys.platform != "linux":
        return os.getpid() == 1
    given = ctypes.c_int(0)
    ctypes.CDLL(None).prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(given), 0, 0, 0)
    return os.getpid() == 1 or bool(given.value)


class Reaper(Service):
    """Reaps whom nobody else does: Twisted takes note of its own children alone."""

    def __init__(self, clock: IReactorTime) -> None:
        self._loop = LoopingCall(_reap)
        self._loop.clock = clock

    def startService(self) -> None:
        super().startService()
        if inherits_orphans():
            self._loop.start(BEAT)

    def stopService(self) -> None:
        super().stopService()
        if self._loop.running:
            self._loop.stop()


def _reap() -> None:
    with suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if found.si_pid in reapProcessHandlers:
                return  # its own turn comes at once, and the others' with the next beat
            os.waitpid(found.si_pid, os.WNOHANG)
