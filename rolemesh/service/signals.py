"""What the signals of an operator, or of systemd, have a program do."""

import signal
from collections.abc import Callable
from typing import Any, NoReturn

from twisted.application.service import Service
from twisted.logger import Logger

from rolemesh.service.exits import OK, leave, stop
from rolemesh.systemd import Systemd

_log = Logger()


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
