"""This machine as the ground that servers run on: ports, keys, GPUs, processes, their records."""

import errno
import secrets
import shutil
from collections.abc import Mapping

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.interfaces import IReactorProcess, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.node import Run
from rolemesh.core.endings import Reason
from rolemesh.core.report import GpuReport
from rolemesh.core.vigil import Signs
from rolemesh.node import host, proc
from rolemesh.node.aside import Aside
from rolemesh.node.command import command_line, environment, secrets_of
from rolemesh.node.estimate import estimate, read_weights
from rolemesh.node.gpu import Gpus, NoSuchGpu
from rolemesh.node.identity import Identity, Records, fingerprint
from rolemesh.node.means import CannotStart, Door, Unkillable
from rolemesh.node.process import Child, run_child
from rolemesh.node.survivors import Survivors

DISK = 2.0  # seconds that a record may take; a sick disk costs the record, not the server
CLEARING = 8.0  # seconds that a look for survivors may take, other servers' looks before it too


@frozen
class Past:
    """How an agent knows what came before it: its jobs wait for disks, so they are done aside."""

    aside: Aside
    records: Records
    survivors: Survivors
    instance: str


class Machine:
    """Gives each server a port of its own and keeps it for the server's later starts.

    `address` is what servers bind to and gateways call. The heads of `models` are read apart from
    all else: the disk that they are on may be in another house.
    """

    _log = Logger()

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
        self._models = models
        self._promised: dict[str, int] = {}
        self._uses: dict[str, tuple[str, ...]] = {}
        self._blocked: dict[str, frozenset[str]] = {}  # GPUs of what outlives SIGKILL
        self._pids: dict[str, int] = {}
        self._notes: dict[str, str] = {}
        self._degraded = False

    async def end_survivors(self) -> None:
        """End what an earlier agent with this state folder left here."""
        past = self._past
        try:
            left = await past.aside.do(past.survivors.end_all).addTimeout(CLEARING, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._log.error("survivors were not looked for: {problem}", problem=repr(problem))
            return
        if left:
            self._log.error("processes {pids} of an earlier agent outlive SIGKILL", pids=left)

    async def make_room(self, run: Run) -> None:
        """End what an earlier start left; the GPUs of what would not go are nobody's.

        :raises Unkillable: when something would not go.
        :raises CannotStart: when a GPU is missing or lost.
        """
        await self._clear(run)
        gpus = self._choose(run)
        for backend, held in self._blocked.items():
            if held & set(gpus):
                raise Unkillable(
                    f"{backend}, on the same GPU, left a process that outlives SIGKILL"
                )
        self._uses[run.id] = gpus
        lost = self.lost_gpu(run)
        if lost:
            raise CannotStart(Reason.GPU_LOST, lost)
        await self._see_whether_it_fits(run)

    async def _see_whether_it_fits(self, run: Run) -> None:
        """Warn, and refuse only what can never be; a slow disk makes no estimate."""
        reading = self._models.do(read_weights, run.file)
        try:
            weights = await reading.addTimeout(DISK, self._clock)
        except FileNotFoundError:
            raise CannotStart(Reason.MODEL_MISSING, f"no file {run.file.name}") from None
        except (OSError, TooLate):
            return
        if self._gpus.sample and not run.gpu.wanted and not run.gpu.none:
            return  # which GPUs it takes is the machine's own setting
        fit = estimate(run, weights, self._used_gpus(run), self._pids.get(run.id))
        if fit.never:
            raise CannotStart(Reason.GPU_MEMORY, fit.note)
        if fit.note and fit.note != self._notes.get(run.id):
            self._log.warn("{backend}: {note}", backend=run.id, note=fit.note)
        self._notes[run.id] = fit.note

    def _used_gpus(self, run: Run) -> list[GpuReport]:
        used = set(self._uses.get(run.id, ()))
        return [gpu for gpu in self._gpus.sample if gpu.uuid in used]

    async def _clear(self, run: Run) -> None:
        """Where the state folder hangs, nobody can tell what is left; that stops no start."""
        clearing = self._past.aside.do(self._end, run.id)
        try:
            left, gpus = await clearing.addTimeout(CLEARING, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._note_disk(f"what {run.id} left was not looked for: {problem!r}")
            return
        self._blocked.pop(run.id, None)
        if left:
            self._blocked[run.id] = frozenset(gpus)
            raise Unkillable(f"process {left[0]} of an earlier start outlives SIGKILL")

    def _end(self, backend: str) -> tuple[list[int], tuple[str, ...]]:
        survivors = self._past.survivors
        left = survivors.end(backend)
        return left, survivors.gpus_of(backend) if left else ()

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

    def run_server(self, run: Run, door: Door, child: Child) -> list[str]:
        """Run llama-server with its key in the environment, where no other user can read it."""
        env = environment(self._environ, run, door.key, self._uses.get(run.id, ()))
        env[proc.VARIABLE] = self._past.survivors.tag(run.id)
        try:
            run_child(self._processes, child, command_line(run, door.host, door.port), env)
        except OSError as problem:
            name = errno.errorcode.get(problem.errno or 0, "unknown error")
            raise CannotStart(Reason.EXEC_FAILED, name) from problem
        return secrets_of(run, door.key)

    async def record(self, run: Run, door: Door, pid: int) -> None:
        """Have its record on the disk, or say once that this disk takes none."""
        self._pids[run.id] = pid
        identity = self._identity(run, door, pid)
        if identity is None:
            return  # it is gone already, or this is no Linux
        writing = self._past.aside.do(self._past.records.write, identity)
        try:
            await writing.addTimeout(DISK, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._note_disk(f"no record of {run.id}: {problem or type(problem).__name__}")
        else:
            self._note_disk("")

    def _identity(self, run: Run, door: Door, pid: int) -> Identity | None:
        found = proc.process(pid)
        if found is None:
            return None
        argv = command_line(run, door.host, door.port)
        return Identity(
            backend=run.id,
            pid=pid,
            started=found.started,
            boot=proc.boot_id(),
            exe=shutil.which(argv[0]) or argv[0],
            argv_sha256=fingerprint(argv),
            port=door.port,
            gpus=self._uses.get(run.id, ()),
            instance=self._past.instance,
        )

    def _note_disk(self, problem: str) -> None:
        if problem and not self._degraded:
            self._log.error("{problem}; it runs without", problem=problem)
        self._degraded = bool(problem)

    def clean_up(self, run: Run) -> None:
        """Its process is gone: so must be what that forked into sessions of its own."""
        self._past.aside.do(self._past.survivors.end, run.id).addErrback(self._not_cleaned)

    def _not_cleaned(self, failure: Failure) -> None:
        self._log.failure("what a server left was not looked for", failure)

    async def settle(self) -> None:
        """Until what was begun aside is done, or `CLEARING` seconds."""
        done: Deferred[None] = self._past.aside.do(lambda: None)
        await done.addTimeout(CLEARING, self._clock).addErrback(lambda _: None)

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
        return self._notes.get(run.id, "")

    def kernel_kills(self) -> int:
        """How often the kernel killed for want of memory until now."""
        return host.kernel_kills()
