"""This machine as the ground that servers run on: ports, keys, GPUs, processes."""

import errno
import secrets
from collections.abc import Mapping

from twisted.internet.interfaces import IReactorProcess

from rolemesh.config.node import Run
from rolemesh.core.endings import Reason
from rolemesh.node import host
from rolemesh.node.command import command_line, environment, secrets_of
from rolemesh.node.gpu import Gpus, NoSuchGpu
from rolemesh.node.means import CannotStart, Door
from rolemesh.node.process import Child, run_child


class Machine:
    """Gives each server a port of its own and keeps it for the server's later starts.

    `address` is what servers bind to and gateways call.
    """

    def __init__(
        self, reactor: IReactorProcess, ports: range, gpus: Gpus, environ: Mapping[str, str]
    ) -> None:
        self.address = host.LOOPBACK
        self._reactor = reactor
        self._ports = ports
        self._gpus = gpus
        self._environ = environ
        self._promised: dict[str, int] = {}

    def open_door(self, run: Run) -> Door:
        """A port that nobody listens on, preferably the last one, and a fresh key."""
        last = self._promised.pop(run.id, None)
        candidates = self._ports if last is None else (last, *self._ports)
        port = host.free_port(self.address, candidates, self._promised.values())
        if port is None:
            first, final = self._ports[0], self._ports[-1]
            raise CannotStart(Reason.PORT_IN_USE, f"no port from {first} to {final} is free")
        self._promised[run.id] = port
        return Door(self.address, port, run.model, secrets.token_urlsafe(32))

    def close_door(self, run: Run) -> None:
        """Its port may be another one's."""
        self._promised.pop(run.id, None)

    def run_server(self, run: Run, door: Door, child: Child) -> list[str]:
        """Run llama-server with its key in the environment, where no other user can read it."""
        try:
            gpus = self._gpus.choose(run.gpu)
        except NoSuchGpu as problem:
            raise CannotStart(Reason.GPU_MISSING, str(problem)) from problem
        env = environment(self._environ, run, door.key, gpus)
        try:
            run_child(self._reactor, child, command_line(run, door.host, door.port), env)
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, "unknown error")
            raise CannotStart(Reason.EXEC_FAILED, name) from problem
        return secrets_of(run, door.key)

    def kernel_kills(self) -> int:
        """How often the kernel killed for want of memory until now."""
        return host.kernel_kills()
