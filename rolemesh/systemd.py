"""What systemd is told: that a program is ready, reloads or stops, and that it is alive."""

import socket
from collections.abc import MutableMapping
from contextlib import suppress

from twisted.application.service import Service
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

_VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")


class Systemd(Service):
    """The unit's own word to systemd, as sd_notify(3) has it; without systemd it says nothing.

    From its start on the reactor itself says that it is alive, twice in each `WatchdogSec`, so that
    one that hangs, in its drain too, is killed. The variables are taken out of `environ`: they are
    for this process, and not for those that it starts.
    """

    def __init__(self, clock: IReactorTime, environ: MutableMapping[str, str], pid: int) -> None:
        told = {name: environ.pop(name, "") for name in _VARIABLES}
        self._clock = clock
        self._address = _address(told["NOTIFY_SOCKET"])
        ours = told["WATCHDOG_PID"] in ("", str(pid))
        self._patience = _seconds(told["WATCHDOG_USEC"]) if ours else 0.0
        self._beat = LoopingCall(self._say, "WATCHDOG=1")
        self._beat.clock = clock

    def startService(self) -> None:
        super().startService()
        if self._address and self._patience:
            self._beat.start(self._patience / 2)

    def ready(self) -> None:
        """What the unit is for can be had now (again)."""
        self._say("READY=1")

    def reloading(self) -> None:
        """A SIGHUP is being followed; `ready` ends that."""
        self._say(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock.seconds() * 1_000_000)}")

    def stopping(self) -> None:
        """The program is on its way out."""
        self._say("STOPPING=1")

    def _say(self, words: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.setblocking(False)
            line.sendto(words.encode(), self._address)


def _address(text: str) -> str:
    """A path, or a name that no file has, which is written with an @."""
    return f"\0{text[1:]}" if text.startswith("@") else text


def _seconds(microseconds: str) -> float:
    return int(microseconds) / 1_000_000 if microseconds.isdigit() else 0.0
