"""An operator's orders, done on this node: none of them names more than the node's own file."""

from collections.abc import Callable
from typing import Protocol

from rolemesh.config.problems import did_you_mean
from rolemesh.core.commands import Command, Kind, Result, fitting
from rolemesh.node.drains import Drains
from rolemesh.node.supervisor import Server


class Running(Protocol):
    """Who has the servers; `node.agent.Servers` does."""

    running: tuple[Server, ...]


class Operator:
    """Does orders, whoever brought them; `changed` is called when gateways have news to hear."""

    def __init__(
        self, node: str, servers: Running, drains: Drains, changed: Callable[[], None]
    ) -> None:
        self._node = node
        self._servers = servers
        self._drains = drains
        self._changed = changed

    async def do(self, command: Command) -> Result:
        """Do it; what cannot be done is said in the result."""
        if command.backend is not None and self.server(command.backend) is None:
            return Result(done=False, message=self._unknown(command.backend))
        match command.kind:
            case Kind.DRAIN:
                return await self._drain(command)
            case Kind.RESUME:
                return await self._resume(command)
            case Kind.RESTART if command.backend is not None:
                return self._restart(command.backend)
            case _:
                return Result(done=False, message=f"{command.kind.value} is for one backend")

    def server(self, backend: str) -> Server | None:
        """The server of that name, if the file has it."""
        return next((each for each in self._servers.running if each.run.id == backend), None)

    def tail(self, backend: str | None) -> "Tail | None":
        """The log of that server."""
        found = self.server(backend or "")
        return Tail(self, found) if found is not None else None

    def _unknown(self, backend: str) -> str:
        names = [each.run.id for each in self._servers.running]
        return f"'{self._node}' has no backend '{backend}'{did_you_mean(backend, names)}"

    async def _drain(self, command: Command) -> Result:
        trouble = await self._drains.drain(command.backend, command.reason, command.for_s)
        self._changed()
        words = self._drains.of(command.backend)
        why = f" ({words})" if words else ""
        return self._told(command, f"takes no new requests{why}; running ones go on", trouble)

    async def _resume(self, command: Command) -> Result:
        trouble = await self._drains.resume(command.backend)
        self._changed()
        left = self._drains.of(command.backend)
        if left is not None:
            message = f"'{self._node}' as a whole is drained ({left}): resume that"
            return Result(done=False, message=message)
        return self._told(command, "takes requests", trouble)

    def _told(self, command: Command, message: str, trouble: str) -> Result:
        target = f"{self._node}/{command.backend}" if command.backend else self._node
        told = "; but ".join(filter(None, (f"{target} {message}", trouble)))
        return Result(done=True, message=told[:1000])

    def _restart(self, backend: str) -> Result:
        server = self.server(backend)
        assert server is not None  # `do` has looked
        before = server.state.value
        if server.restart():
            return Result(done=True, message=f"{self._node}/{backend} was {before}, and restarts")
        message = f"{self._node}/{backend} is {before}, which a restart does not change"
        return Result(done=False, message=message)


class Tail:
    """One server's log from some line on, also when its entry of the file is changed."""

    def __init__(self, operator: Operator, server: Server) -> None:
        self._operator = operator
        self._server = server
        self._seen = 0

    @property
    def mark(self) -> str:
        """Where the log is; what comes behind it is asked for with `last`."""
        return self._server.log.mark()

    def last(self, count: int, after: str = "") -> tuple[str, ...]:
        """The last lines until now, or all those behind a mark."""
        log = self._server.log
        self._seen = log.count
        if after:
            return fitting(*log.since(after))
        return fitting(log.tail(count)) if count else ()

    def news(self) -> tuple[str, ...]:
        """What came since."""
        current = self._operator.server(self._server.run.id)
        if current is not None and current is not self._server:
            self._server, self._seen = current, 0
        log = self._server.log
        fresh, self._seen = log.count - self._seen, log.count
        lines = log.tail(fresh) if fresh else []
        return fitting(lines, fresh - len(lines))
