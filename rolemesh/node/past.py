"""What came before this agent and these servers, and what is written for who comes after."""

import shutil
from collections.abc import Callable, Collection, Mapping

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.node import Run
from rolemesh.node import proc
from rolemesh.node.aside import Aside
from rolemesh.node.command import command_line
from rolemesh.node.identity import Identity, Records, fingerprint
from rolemesh.node.keeping import Keeping, adoptable, wish
from rolemesh.node.logs import LineCutter
from rolemesh.node.means import Door, Taken, Unkillable
from rolemesh.node.process import Exit, Output
from rolemesh.node.survivors import Survivors

DISK = 2.0  # seconds that a record may take; a sick disk costs the record, not the server
CLEARING = 8.0  # seconds that a look for survivors may take, other servers' looks before it too


class Past:
    """Of one state folder. What waits for its disk, or for processes to end, is done aside.

    With a `keeping` servers go on when the agent ends. `degraded` is what the folder does not do
    for them, empty while it does all.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        aside: Aside,
        records: Records,
        instance: str,
        keeping: Keeping | None = None,
    ) -> None:
        self.aside = aside
        self.keeping = keeping
        self.degraded = ""
        self._clock = clock
        self._records = records
        self._survivors = Survivors(records, instance)
        self._instance = instance
        self._blocked: dict[str, frozenset[str]] = {}  # GPUs of what outlives SIGKILL
        self._troubles: dict[str, str] = {}

    def tag(self, run: Run) -> str:
        """What its process and all that this forks carry in their environment."""
        return self._survivors.tag(run.id)

    async def end_survivors(self, runs: Mapping[str, Run]) -> None:
        """End what an earlier agent with this state folder left here, but for what we adopt."""
        sorting = self.aside.do(self._sort_survivors, runs)
        try:
            left = await sorting.addTimeout(CLEARING, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._log.error("survivors were not looked for: {problem}", problem=repr(problem))
            return
        if left:
            self._log.error("processes {pids} of an earlier agent outlive SIGKILL", pids=left)

    def _sort_survivors(self, runs: Mapping[str, Run]) -> list[int]:
        if self.keeping is None:
            return self._survivors.end_all()
        self.keeping.waiting = adoptable(self._survivors.recorded(), runs)
        return self._survivors.end_all(sparing=self.keeping.waiting)

    def waits_for(self, run: Run) -> bool:
        """Whether a server for it runs already, and was not taken over yet."""
        return self.keeping is not None and run.id in self.keeping.waiting

    async def adopt(
        self, run: Run, host: str, cutter: LineCutter, exited: Callable[[Exit], None]
    ) -> Taken | None:
        """Take over what an earlier agent left running for it at this address."""
        if self.keeping is None:
            return None
        return await self.keeping.adopt(run, host, self.tag(run), cutter, exited)

    def keeps(self, run: Run) -> bool:
        """Whether the next agent would know its server, so that it may go on without us."""
        return self.keeping is not None and self.keeping.keeps(run.id)

    async def output(self, run: Run) -> Output | None:
        """Where a new server writes that is to be kept. One without such a place ends with us, and
        so does one without a record."""
        if self.keeping is None:
            return None
        try:
            return await self.keeping.output(run)
        except CancelledError:
            raise
        except Exception as problem:
            self._note_disk(run, f"{run.id} cannot outlive the agent: {_words(problem)}")
            return None

    async def clear(self, run: Run) -> None:
        """End what an earlier start left. Where the state folder hangs, nobody can tell what that
        is; it stops no start.

        :raises Unkillable: when something would not go.
        """
        clearing = self.aside.do(self._end, run.id)
        try:
            left, gpus = await clearing.addTimeout(CLEARING, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._note_disk(run, f"what {run.id} left was not looked for: {_words(problem)}")
            return
        self._blocked.pop(run.id, None)
        if left:
            self._blocked[run.id] = frozenset(gpus)
            raise Unkillable(f"process {left[0]} of an earlier start outlives SIGKILL")

    def must_be_free(self, gpus: Collection[str]) -> None:
        """That nothing which outlives SIGKILL holds one of them.

        :raises Unkillable: when something does.
        """
        for backend, held in self._blocked.items():
            if not held.isdisjoint(gpus):
                raise Unkillable(
                    f"{backend}, on the same GPU, left a process that outlives SIGKILL"
                )

    def _end(self, backend: str) -> tuple[list[int], tuple[str, ...]]:
        left = self._survivors.end(backend)
        return left, self._survivors.gpus_of(backend) if left else ()

    async def record(self, run: Run, door: Door, pid: int, gpus: tuple[str, ...]) -> None:
        """Have its record on the disk, or say once that this disk takes none."""
        identity = self._identity(run, door, pid, gpus)
        if identity is None:
            return  # it is gone already, or this is no Linux
        writing = self.aside.do(self._records.write, identity)
        try:
            await writing.addTimeout(DISK, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            self._note_disk(run, f"no record of {run.id}: {_words(problem)}")
        else:
            self._recorded(run)

    def _recorded(self, run: Run) -> None:
        if self.keeping is not None:
            self.keeping.recorded(run.id)
        if self.keeping is None or self.keeps(run):
            self._note_disk(run, "")

    def _identity(self, run: Run, door: Door, pid: int, gpus: tuple[str, ...]) -> Identity | None:
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
            gpus=gpus,
            instance=self._instance,
            host=door.host,
            wish=wish(run),
        )

    def forget(self, run: Run) -> None:
        """It is in the file no more: what the disk does not do for it matters no more."""
        self._note_disk(run, "")

    def _note_disk(self, run: Run, problem: str) -> None:
        """Said once, until it is over for all."""
        if problem and not self._troubles:
            self._log.error("{problem}; it runs without", problem=problem)
        self._troubles.pop(run.id, None)
        if problem:
            self._troubles[run.id] = problem
        self.degraded = next(iter(self._troubles.values()), "")

    def clean_up(self, run: Run) -> None:
        """Its process is gone: so must be what that forked into sessions of its own."""
        if self.keeping is not None:
            self.keeping.forget(run.id)
        self.aside.do(self._survivors.end, run.id).addErrback(self._not_cleaned)

    def _not_cleaned(self, failure: Failure) -> None:
        self._log.failure("what a server left was not looked for", failure)

    async def settle(self) -> None:
        """Until what was begun aside is done, or `CLEARING` seconds."""
        done: Deferred[None] = self.aside.do(lambda: None)
        await done.addTimeout(CLEARING, self._clock).addErrback(lambda _: None)


def _words(problem: Exception) -> str:
    """Without a path, which is nobody's business."""
    return getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
