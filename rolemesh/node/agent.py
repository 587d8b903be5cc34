"""The node as a whole: starts its servers, tells its gateways, and stops in order."""

from collections.abc import Callable, Iterable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, DeferredLock, gatherResults
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.node import Run
from rolemesh.node.address import OwnAddress
from rolemesh.node.gpu import Gpus
from rolemesh.node.machine import Machine
from rolemesh.node.reporter import Reporter
from rolemesh.node.supervisor import Server

UNKILLABLE = 5.0  # seconds beyond the grace, after which a process that SIGKILL leaves is left


class Servers:
    """This node's llama-servers, one for each entry of the file.

    They start when their address is known; those that name GPUs also wait for NVML's first word.
    """

    def __init__(
        self, make: Callable[[Run], Server], machine: Machine, address: OwnAddress, gpus: Gpus
    ) -> None:
        self.running: tuple[Server, ...] = ()
        self._make = make
        self._machine = machine
        self._address = address
        self._gpus = gpus
        self._lock = DeferredLock()
        self._closed = False

    async def run(self, runs: Iterable[Run]) -> None:
        """Run these and no others; an entry that is the same as before is not touched."""
        await self._lock.acquire()
        try:
            await self._replace({run.id: run for run in runs})
        finally:
            self._lock.release()

    def stop(self) -> Deferred[list[None]]:
        """Stop all at once, for good. Fires when all are gone."""
        self._closed = True
        return gatherResults([server.stop() for server in self.running])

    def kill(self) -> None:
        """End all this instant."""
        for server in self.running:
            server.kill()

    async def _replace(self, wanted: dict[str, Run]) -> None:
        staying = {s.run.id: s for s in self.running if wanted.get(s.run.id) == s.run}
        await self._end([s for s in self.running if s.run.id not in staying])
        self.running = tuple(staying.get(id) or self._make(run) for id, run in wanted.items())
        self._machine.address = await self._address.find()
        fresh = [server for server in self.running if server.run.id not in staying]
        await self._start(fresh)

    async def _end(self, servers: Sequence[Server]) -> None:
        await gatherResults([server.stop() for server in servers])
        for server in servers:
            self._machine.close_door(server.run)

    async def _start(self, servers: Iterable[Server]) -> None:
        for server in sorted(servers, key=_names_gpus):
            if _names_gpus(server):
                await self._gpus.settled
            if not self._closed:
                server.start()


def _names_gpus(server: Server) -> bool:
    return bool(server.run.gpu.all or server.run.gpu.names)


class Agent(Service):
    """Everything that a node does, under one service."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        runs: tuple[Run, ...],
        servers: Servers,
        gpus: Gpus,
        reporter: Reporter,
        grace: float,
    ) -> None:
        self._clock = clock
        self._runs = runs
        self._servers = servers
        self._gpus = gpus
        self._reporter = reporter
        self._grace = grace
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._gpus.startService()
        self._reporter.start()
        self.run(self._runs)

    def run(self, runs: tuple[Run, ...]) -> Deferred[None]:
        """Run these entries from now on. Fires when what left is gone and what came is started."""
        self._starting = starting = Deferred.fromCoroutine(self._servers.run(runs))
        return starting.addErrback(self._not_started)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def kill(self) -> None:
        """End all servers this instant: the agent has no more time."""
        self._servers.kill()

    async def _stop(self) -> None:
        """Gateways first, so that they send nothing more, then all servers at once."""
        if self._starting is not None:
            self._starting.cancel()
        await self._reporter.stop()
        try:
            await self._servers.stop().addTimeout(self._grace + UNKILLABLE, self._clock)
        except TooLate:
            self._log.error("a llama-server outlives SIGKILL; it is left to the kernel")
        self._gpus.stopService()

    def _not_started(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the servers could not be started", failure)
