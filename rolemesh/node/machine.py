"""This machine as the ground that servers run on: ports, keys, GPUs, processes."""

import errno
import secrets
from collections.abc import Callable, Mapping

from attrs import evolve
from twisted.internet.interfaces import IReactorProcess, IReactorTime

from rolemesh.config.node import Run
from rolemesh.core.endings import Reason
from rolemesh.core.report import GpuReport
from rolemesh.core.vigil import Signs
from rolemesh.node import host, proc
from rolemesh.node.aside import Aside
from rolemesh.node.command import command_line, environment, secrets_of
from rolemesh.node.gpu import Gpus, NoSuchGpu
from rolemesh.node.logs import LineCutter
from rolemesh.node.means import CannotStart, Door, Taken
from rolemesh.node.past import Past
from rolemesh.node.process import Child, Exit, Output, run_child
from rolemesh.node.room import Room


class Machine:
    """Gives each server a port of its own and keeps it for the server's later starts.

    `address` is what servers bind to and gateways call.
    """

    def __init__(
        self,
        clock: IReactorTime,
        processes: IReactorProcess,
        ports: range,
        gpus: Gpus,
        environ: Mapping[str, str],
        past: Past,
        models: Aside,
    ) -> None:
        self.address = host.LOOPBACK
        self._clock = clock
        self._processes = processes
        self._ports = ports
        self._gpus = gpus
        self._environ = environ
        self._past = past
        self._room = Room(clock, gpus, models)
        self._outputs: dict[str, Output | None] = {}
        self._promised: dict[str, int] = {}
        self._uses: dict[str, tuple[str, ...]] = {}
        self._pids: dict[str, int] = {}

    async def adopt(
        self, run: Run, cutter: LineCutter, exited: Callable[[Exit], None]
    ) -> Taken | None:
        """Take over what an earlier agent left running for it."""
        taken = await self._past.adopt(run, self.address, cutter, exited)
        if taken is not None:
            self._uses[run.id] = taken.gpus
            self._promised[run.id] = taken.door.port
        return taken

    def keeps(self, run: Run) -> bool:
        """Whether the next agent would know its server, so that it may go on without us."""
        return self._past.keeps(run)

    async def make_room(self, run: Run) -> None:
        """End what an earlier start left; the GPUs of what would not go are nobody's.

        :raises Unkillable: when something would not go.
        :raises CannotStart: when a GPU is missing or lost.
        """
        await self._past.clear(run)
        gpus = self._choose(run)
        self._past.must_be_free(gpus)
        self._uses[run.id] = gpus
        lost = self.lost_gpu(run)
        if lost:
            raise CannotStart(Reason.GPU_LOST, lost)
        await self._room.find(run, gpus, self._pids.get(run.id))
        self._drop_output(run)
        self._outputs[run.id] = await self._past.output(run)

    def _used_gpus(self, run: Run) -> list[GpuReport]:
        return self._room.used(self._uses.get(run.id, ()))

    def _choose(self, run: Run) -> tuple[str, ...]:
        try:
            return self._gpus.choose(run.gpu)
        except NoSuchGpu as problem:
            raise CannotStart(Reason.GPU_MISSING, str(problem)) from problem

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
        self._uses.pop(run.id, None)
        self._drop_output(run)
        self._past.forget(run)

    def _drop_output(self, run: Run) -> None:
        """A place to write that no process has."""
        unused = self._outputs.pop(run.id, None)
        if unused is not None:
            unused.leave()

    def run_server(self, run: Run, door: Door, child: Child) -> list[str]:
        """Run llama-server with its key in the environment, where no other user can read it."""
        env = environment(self._environ, run, door.key, self._uses.get(run.id, ()))
        env[proc.VARIABLE] = self._past.tag(run)
        child.output = self._outputs.get(run.id)
        try:
            run_child(self._processes, child, command_line(run, door.host, door.port), env)
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, "unknown error")
            raise CannotStart(Reason.EXEC_FAILED, name) from problem
        self._outputs.pop(run.id, None)
        return secrets_of(run, door.key)

    async def record(self, run: Run, door: Door, pid: int) -> None:
        """Have its record on the disk, as far as that takes one."""
        self._pids[run.id] = pid
        await self._past.record(run, door, pid, self._uses.get(run.id, ()))

    def clean_up(self, run: Run) -> None:
        """Its process is gone: so must be what that forked into sessions of its own."""
        self._past.clean_up(run)

    def signs(self, run: Run, pid: int) -> Signs:
        """What /proc and NVML show of it; a machine that has no NVML shows no load of its GPUs."""
        gpus = self._used_gpus(run)
        loads = [gpu.utilization for gpu in gpus if gpu.utilization is not None]
        return evolve(
            proc.signs(pid),
            gpu_memory=sum(gpu.memory_used or 0 for gpu in gpus),
            utilization=max(loads, default=None),
        )

    def lost_gpu(self, run: Run) -> str:
        """Which of its GPUs NVML has lost, and what it says of it."""
        lost = [gpu for gpu in self._used_gpus(run) if gpu.lost]
        return "; ".join(f"GPU {gpu.index} ({gpu.name}): {gpu.reason}" for gpu in lost)

    def note(self, run: Run) -> str:
        """What may keep it from fitting, empty where nothing does."""
        return self._room.notes.get(run.id, "")

    def kernel_kills(self) -> int:
        """How often the kernel killed for want of memory until now."""
        return host.kernel_kills()
