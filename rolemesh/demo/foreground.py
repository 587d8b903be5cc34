"""The gateway and the node agent as children of one command that a person watches."""

import os
import signal
import sys
from collections import defaultdict
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

GLANCE = 0.05  # seconds between two looks at the children
LAST_ORDERS = (("TERM", 45.0), ("TERM", 5.0), ("KILL", 5.0))  # signals, and patience in seconds

Heard = Callable[[str, bytes], None]
Main = Callable[[Any, "Foreground"], Coroutine[Any, Any, int]]


class Child(ProcessProtocol):
    """One program: `heard` gets its name and each of its lines.

    `code` is None while it runs, then its exit code, or minus the number of the signal.
    """

    def __init__(self, name: str, heard: Heard) -> None:
        self.name = name
        self.code: int | None = None
        self._heard = heard
        self._unfinished: dict[int, bytes] = defaultdict(bytes)

    @property
    def over(self) -> bool:
        return self.code is not None

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        *lines, rest = (self._unfinished[childFD] + data).split(b"\n")
        self._unfinished[childFD] = rest
        for line in lines:
            self._heard(self.name, line)

    def processEnded(self, reason: Failure) -> None:
        status: Any = reason.value
        self.code = -status.signal if status.signal else status.exitCode

    def signal(self, name: str) -> None:
        """Send SIG`name`, unless it has ended."""
        if not self.over and self.transport is not None:
            with suppress(ProcessExitedAlready):
                self.transport.signalProcess(name)


class Foreground:
    """Programs that live and die together. `leaving` tells that they are, or will be, stopped."""

    def __init__(self, reactor: Any, heard: Heard) -> None:
        self.leaving = False
        self._reactor = reactor
        self._heard = heard
        self.children: list[Child] = []

    def start(self, name: str, *service: str) -> Child:
        """Start a twistd service, which will not outlive this process."""
        child = self.spawn(name, "-m", "rolemesh.demo.child", str(os.getpid()), *service)
        self.children.append(child)
        return child

    def spawn(self, name: str, *arguments: str) -> Child:
        """Start a Python program that ends by itself."""
        child = Child(name, self._heard)
        argv = (sys.executable, "-P", *arguments)  # not what happens to be in this folder
        self._reactor.spawnProcess(child, sys.executable, argv, env=None)
        return child

    def fallen(self) -> Child | None:
        """The first child that has ended."""
        return next((child for child in self.children if child.over), None)

    async def first_to_end(self) -> Child:
        while (child := self.fallen()) is None:
            await deferLater(self._reactor, GLANCE)
        return child

    async def end_of(self, child: Child, seconds: float = float("inf")) -> bool:
        """Wait for a program to end; False when it still runs after so many seconds."""
        latest = self._reactor.seconds() + seconds
        while not child.over and self._reactor.seconds() < latest:
            await deferLater(self._reactor, GLANCE)
        return child.over

    async def stop(self) -> None:
        """End each child before the next, so that a gateway drains while its servers live."""
        self.leaving = True
        for child in self.children:
            for order, patience in LAST_ORDERS:
                child.signal(order)
                if await self.end_of(child, patience):
                    break

    def hurry(self) -> None:
        """Ask every child once more, which ends it at once."""
        for child in self.children:
            child.signal("TERM")


class _Performance:
    """One run of a main on a reactor, and its exit code."""

    def __init__(self, reactor: Any, main: Main, heard: Heard) -> None:
        self.code = 1
        self._reactor = reactor
        self._main = main
        self._foreground = Foreground(reactor, heard)

    def start(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._reactor.callFromThread(self._asked_to_stop))
        self._under_way = Deferred.fromCoroutine(self._perform())

    async def _perform(self) -> None:
        try:
            self.code = await self._main(self._reactor, self._foreground)
        except Exception:
            Logger().failure("the command failed")
        finally:
            self._reactor.stop()

    def _asked_to_stop(self) -> None:
        if self._foreground.leaving:
            self._foreground.hurry()
        else:
            self._foreground.leaving = True
            self._under_way.cancel()


def run(main: Main, heard: Heard) -> int:
    """Run `main` and return the exit code that it returns.

    Ctrl-C and SIGTERM cancel what it waits for; a second time, they hurry the children.
    """
    from twisted.internet import reactor

    performance = _Performance(reactor, main, heard)
    reactor.callWhenRunning(performance.start)
    reactor.run()
    return performance.code
