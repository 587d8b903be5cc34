"""What systemd is told, heard on a real socket."""

import os
import socket
import tempfile
from pathlib import Path
from secrets import token_hex

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.systemd import Systemd


class SystemdTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name, "notify")
        self.ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.ear.close)
        self.ear.bind(str(self.path))
        self.ear.setblocking(False)

    def heard(self) -> list[str]:
        words = []
        while True:
            try:
                words.append(self.ear.recv(1000).decode())
            except BlockingIOError:
                return words

    def unit(self, **environ: str) -> Systemd:
        self.environ = {"NOTIFY_SOCKET": str(self.path), **environ}
        return Systemd(self.clock, self.environ, os.getpid())

    def test_L1_its_life(self) -> None:
        """Ready, reloading and ready again, stopping: each in systemd's own words."""
        unit = self.unit()
        self.clock.advance(12.5)
        unit.ready()
        unit.reloading()
        unit.ready()
        unit.stopping()
        reloading = "RELOADING=1\nMONOTONIC_USEC=12500000"
        self.assertEqual(self.heard(), ["READY=1", reloading, "READY=1", "STOPPING=1"])

    def test_P18_alive(self) -> None:
        """It says so twice in each WatchdogSec, from the reactor; when that hangs, nobody does."""
        self.unit(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid())).startService()
        self.assertEqual(self.heard(), ["WATCHDOG=1"])
        self.clock.pump([15.0] * 3)
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 3)

    def test_P18_alive_while_it_drains(self) -> None:
        """A long drain is not a hang."""
        unit = self.unit(WATCHDOG_USEC="30000000")
        unit.startService()
        unit.stopService()
        self.clock.advance(15.0)
        self.assertEqual(self.heard(), ["WATCHDOG=1"] * 2)

    def test_the_watchdog_of_another_process(self) -> None:
        """Its beat is not ours to give."""
        self.unit(WATCHDOG_USEC="30000000", WATCHDOG_PID="1").startService()
        self.assertEqual(self.heard(), [])

    def test_children_are_not_told_where(self) -> None:
        """What a program starts cannot speak for it."""
        self.unit(WATCHDOG_USEC="30000000", HOME="/")
        self.assertEqual(self.environ, {"HOME": "/"})

    def test_an_abstract_socket(self) -> None:
        """A name with an @ is in no folder."""
        name = f"rolemesh-{token_hex(8)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
            ear.bind(f"\0{name}")
            ear.setblocking(False)
            Systemd(self.clock, {"NOTIFY_SOCKET": f"@{name}"}, os.getpid()).ready()
            self.assertEqual(ear.recv(100), b"READY=1")

    def test_without_systemd(self) -> None:
        """Nothing is said, and nothing fails; nor when the socket is gone."""
        Systemd(self.clock, {}, os.getpid()).ready()
        gone = Systemd(self.clock, {"NOTIFY_SOCKET": str(self.path) + "-gone"}, os.getpid())
        gone.startService()
        gone.stopping()
        self.assertEqual(self.clock.getDelayedCalls(), [])
