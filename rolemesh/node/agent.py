"""The node as a whole: starts its servers, tells its gateways, and stops in order."""

from collections.abc import Callable, Iterable, Sequence

from twisted.application.service import Service
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    DeferredLock,
    gatherResults,
    maybeDeferred,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.node import Run
from rolemesh.node.address import OwnAddress
from rolemesh.node.gpu import Gpus
from rolemesh.node.machine import Machine
from rolemesh.node.past import Past
from rolemesh.node.reporter import Reporter
from rolemesh.node.supervisor import Server


class Servers:
    """This node's llama-servers, one for each entry of the file.

    What an earlier agent left is ended before the first one starts, or adopted. They start when
    their address is known; those that name GPUs also wait for NVML's first word.
    """

    def __init__(
        self,
        make: Callable[[Run], Server],
        machine: Machine,
        past: Past,
        address: OwnAddress,
        gpus: Gpus,
    ) -> None:
        self.running: tuple[Server, ...] = ()
        self._make = make
        self._machine = machine
        self._past = past
        self._address = address
        self._gpus = gpus
        self._lock = DeferredLock()
        self._closed = False
        self._first = True
        gpus.on_sample.append(self._gpus_changed)

    async def run(self, runs: Iterable[Run]) -> None:
        """Run these and no others; an entry that is the same as before is not touched."""
        await self._lock.acquire()
        try:
            await self._replace({run.id: run for run in runs})
        finally:
            self._lock.release()

    async def stop(self) -> None:
        """Stop all at once, for good, until all are gone or given up; those that are to outlive
        us are left alone."""
        self._closed = True
        stopping = [server for server in self.running if not server.leave()]
        await gatherResults([server.stop() for server in stopping])
        await self._past.settle()

    def kill(self) -> None:
        """End all this instant that are not to outlive us."""
        for server in self.running:
            if not self._machine.keeps(server.run):
                server.kill()

    def woke(self) -> None:
        """The machine slept."""
        for server in self.running:
            server.woke()

    def settled(self) -> bool:
        """Whether it is known how those are that ran before us."""
        waiting = any(self._past.waits_for(server.run) for server in self.running)
        return not (self._first or waiting or any(server.settling for server in self.running))

    def lasting(self) -> bool:
        """Whether one of them goes on when we end."""
        return any(self._machine.keeps(server.run) for server in self.running)

    def _gpus_changed(self) -> None:
        for server in self.running:
            server.gpus_changed()

    async def _replace(self, wanted: dict[str, Run]) -> None:
        if self._first:
            await self._past.end_survivors(wanted)
        staying = {s.run.id: s for s in self.running if wanted.get(s.run.id) == s.run}
        await self._end([s for s in self.running if s.run.id not in staying])
        self.running = tuple(staying.get(id) or self._make(run) for id, run in wanted.items())
        self._first = False
        self._machine.address = await self._address.find()
        fresh = [server for server in self.running if server.run.id not in staying]
        await self._start(fresh)

    async def _end(self, servers: Sequence[Server]) -> None:
        await gatherResults([server.stop() for server in servers])
        for server in servers:
            self._machine.close_door(server.run)

    async def _start(self, servers: Iterable[Server]) -> None:
        for server in sorted(servers, key=self._waits_for_gpus):
            if self._waits_for_gpus(server):
                await self._gpus.settled
            if not self._closed:
                server.start()

    def _waits_for_gpus(self, server: Server) -> bool:
        return server.run.gpu.wanted and not self._past.waits_for(server.run)


class Agent(Service):
    """Everything that a node does, under one service; by `hearing` it is asked and told things."""

    _log = Logger()

    def __init__(
        self,
        runs: tuple[Run, ...],
        servers: Servers,
        gpus: Gpus,
        reporter: Reporter,
        hearing: Sequence[Service] = (),
    ) -> None:
        self._runs = runs
        self._servers = servers
        self._gpus = gpus
        self._reporter = reporter
        self._hearing = hearing
        self._starting: Deferred[None] | None = None

    def startService(self) -> None:
        super().startService()
        self._gpus.startService()
        self._reporter.start()
        for each in self._hearing:
            each.startService()
        self.run(self._runs)

    def run(self, runs: tuple[Run, ...]) -> Deferred[None]:
        """Run these entries from now on. Fires when what left is gone and what came is started."""
        self._starting = starting = Deferred.fromCoroutine(self._servers.run(runs))
        starting.addErrback(self._not_started)
        return starting.addCallback(lambda _: self._reporter.changed())

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    def kill(self) -> None:
        """End all servers this instant that are not to outlive us: there is no more time."""
        self._servers.kill()

    async def _stop(self) -> None:
        """Gateways first, so that they send nothing more, then all servers at once. Where one goes
        on, gateways go on with it: the next agent has a lease's time to come."""
        if self._starting is not None:
            self._starting.cancel()
        for each in self._hearing:
            await maybeDeferred(each.stopService)
        await self._reporter.stop(farewell=not self._servers.lasting())
        await self._servers.stop()
        self._gpus.stopService()

    def _not_started(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the servers could not be started", failure)
