"""Work that a sick disk or process can hang is done aside, so that the reactor never waits."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

T = TypeVar("T")


class Aside:
    """One thread, which does one job after the other.

    It shares nothing with the reactor's own threads, in which names are resolved, and it does not
    keep the process from ending.
    """

    def __init__(self, reactor: IReactorFromThreads) -> None:
        self._reactor = reactor
        self._jobs: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: Thread | None = None

    def do(self, job: Callable[..., T], *arguments: Any) -> Deferred[T]:
        """Do it there. Fires with what it returns, fails with what it raises; a job whose Deferred
        is cancelled is done all the same."""
        done: Deferred[T] = Deferred()
        self._jobs.put(lambda: self._do(done, job, *arguments))
        if self._thread is None:
            self._thread = Thread(target=self._run, name="rolemesh aside", daemon=True)
            self._thread.start()
        return done

    def _run(self) -> None:
        while True:
            self._jobs.get()()

    def _do(self, done: Deferred[T], job: Callable[..., T], *arguments: Any) -> None:
        try:
            result: T | Failure = job(*arguments)
        except Exception:
            result = Failure()
        self._reactor.callFromThread(_tell, done, result)


def _tell(done: Deferred[T], result: T | Failure) -> None:
    if not done.called:
        done.callback(result)
