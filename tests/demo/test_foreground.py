"""Programs in the foreground live and die together."""

import os
import signal
import sys
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from rolemesh.demo.foreground import Child, Foreground, _Performance

STUBBORN = (
    "import signal, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: print('asked', flush=True))\n"
    "print('here', flush=True)\n"
    "while True: time.sleep(60)"
)


class Children(TestCase):
    """`Foreground` with small programs in the place of ours."""

    def setUp(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self.said: Deferred[None] = Deferred()
        self.foreground = Foreground(reactor, self._hear)

    def _hear(self, name: str, line: bytes) -> None:
        self.heard.append((name, line))
        if not self.said.called:
            self.said.callback(None)

    def start(self, program: str, name: str = "child") -> Child:
        child = self.foreground.spawn(name, "-c", program)
        self.foreground.children.append(child)
        self.addCleanup(child.signal, "KILL")
        return child

    async def test_lines_are_heard(self) -> None:
        """Both outputs come line by line under the child's name, and the exit code is kept."""
        child = self.start(
            "import sys; print('one\\ntwo'); print('oops', file=sys.stderr); exit(7)"
        )
        self.assertIs(await self.foreground.first_to_end(), child)
        self.assertEqual(child.code, 7)
        self.assertEqual({line for _, line in self.heard}, {b"one", b"two", b"oops"})

    async def test_killed_child_tells_the_signal(self) -> None:
        """The code of a child that a signal ended is minus its number."""
        child = self.start("import time; time.sleep(60)")
        child.signal("KILL")
        await self.foreground.end_of(child)
        self.assertEqual(child.code, -signal.SIGKILL)

    async def test_stop_insists(self) -> None:
        """A child that ignores SIGTERM is asked again, and then killed."""
        orders = (("TERM", 0.2), ("TERM", 0.2), ("KILL", 20.0))
        self.patch(sys.modules["rolemesh.demo.foreground"], "LAST_ORDERS", orders)
        child = self.start(STUBBORN)
        await self.said
        sent = self.noting_signals(child)
        await self.foreground.stop()
        self.assertEqual((child.code, sent), (-signal.SIGKILL, ["TERM", "TERM", "KILL"]))

    def noting_signals(self, child: Child) -> list[str]:
        """The names of those that it is sent from now on: two may well reach it as one."""
        sent: list[str] = []
        send = child.signal

        def noted(name: str) -> None:
            sent.append(name)
            send(name)

        self.patch(child, "signal", noted)
        return sent

    async def test_stop_goes_in_order(self) -> None:
        """The second child is not asked before the first has ended."""
        first = self.start("import time; time.sleep(60)", "first")
        second = self.start("import time; time.sleep(60)", "second")
        order: list[str] = []
        for child in (first, second):
            self.patch(child, "processEnded", self._noting(order, child))
        await self.foreground.stop()
        self.assertEqual(order, ["first", "second"])

    async def test_interrupt_while_stopping_hurries(self) -> None:
        """An order to stop that comes while all is stopped asks the children once more."""
        performance = _Performance(reactor, self._never, self._hear)
        self.foreground = performance._foreground
        child = self.start(STUBBORN)
        await self.said
        self.foreground.leaving = True
        performance._asked_to_stop()
        while len(self.heard) < 2:
            await deferLater(reactor, 0.01)
        self.assertEqual(self.heard[1], ("child", b"asked"))
        child.signal("KILL")
        await self.foreground.end_of(child)

    async def _never(self, _reactor: Any, _foreground: Foreground) -> int:
        raise AssertionError("not performed here")

    def _noting(self, order: list[str], child: Child) -> Any:
        ended = child.processEnded

        def noted(reason: Any) -> None:
            order.append(child.name)
            ended(reason)

        return noted


class Guard(TestCase):
    """`rolemesh.demo.child`."""

    async def test_orphan_does_not_start(self) -> None:
        """A child whose parent is gone already ends at once, before twistd."""
        foreground = Foreground(reactor, lambda *_: None)
        stranger = str(os.getppid())
        child = foreground.spawn("child", "-m", "rolemesh.demo.child", stranger, "no-such-service")
        await foreground.end_of(child)
        self.assertEqual(child.code, 0)
