"""One start of a server: how it comes to its process, and how that ends."""

from collections.abc import Callable

from attrs import evolve
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.core.endings import Ending, classify
from rolemesh.node.logs import ServerLog
from rolemesh.node.means import CannotStart, Door, Means, Process, Taken, Unkillable
from rolemesh.node.process import Child, Exit

LOOK_AGAIN = 10.0  # seconds between looks at a process that outlived SIGKILL
HEARD_LINES = 60  # of the log, where the cause of an exit is looked for


class Start:
    """Comes to one process, by adopting what an earlier agent left or by running a new one.

    `ended` is told once that the process is gone, unless it was left to go on.
    """

    _logger = Logger()

    def __init__(
        self, run: Run, means: Means, log: ServerLog, ended: Callable[["Start", Exit], None]
    ) -> None:
        self.adopted = False
        self._run = run
        self._clock = means.clock
        self._ground = means.ground
        self._log = log
        self._ended = ended
        self._at = means.clock.seconds()
        self._kills_before = 0
        self._process: Process | None = None
        self._left = False

    @property
    def pid(self) -> int | None:
        """Its process, None where there is none yet or any more."""
        return self._process.pid if self._process is not None else None

    @property
    def age(self) -> float:
        """Seconds since it began, under an earlier agent if need be."""
        return self._clock.seconds() - self._at

    async def begin(self) -> Door:
        """Come to a process whose lines go to the log, and tell where it answers.

        :raises CannotStart: when there can be none now.
        """
        self._kills_before = self._ground.kernel_kills()
        taken = await self._ground.adopt(self._run, self._log.cutter(), self._exited)
        if taken is not None:
            return self._take_over(taken)
        await self._ground.make_room(self._run)
        child = Child(self._log.cutter(), self._log.cutter(), self._exited)
        door = self._ground.open_door(self._run)
        self._log.begin(self._ground.run_server(self._run, door, child))
        self._process = child
        return door

    def terminate(self) -> None:
        """Ask the process to end."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """End it and all that it forked."""
        if self._process is not None:
            self._process.kill()

    def leave(self) -> None:
        """Let it go on without us; its end is none of ours any more."""
        self._left = True
        if self._process is not None:
            self._process.leave()

    async def until_gone(self) -> None:
        """Wait for the end of what even SIGKILL did not end. A child of ours tells its end by
        itself; that of another agent has to be looked for."""
        while True:
            await deferLater(self._clock, LOOK_AGAIN)
            try:
                await self._ground.make_room(self._run)
            except Unkillable:
                continue
            except CannotStart:
                pass  # the next start will say so
            if self._process is None:
                return

    def cause(self, status: Exit, decided: Ending | None) -> Ending:
        """Why its process is gone: what was decided of it, else what log and kernel show."""
        lines = self._log.tail(HEARD_LINES)
        if decided is not None:
            return evolve(decided, lines=tuple(lines), uptime=self.age)
        killed = self._ground.kernel_kills() > self._kills_before
        return classify(status.code, status.signal, lines, out_of_memory=killed, uptime=self.age)

    def _take_over(self, taken: Taken) -> Door:
        """A load that it began under another agent is not a new one, so its age is its own."""
        self._logger.info(
            "{backend}: adopted process {pid}, {age:.0f} s old",
            backend=self._run.id,
            pid=taken.process.pid,
            age=taken.age,
        )
        self._log.begin(taken.secrets)
        self._log.recall(taken.tail)
        taken.process.watch()
        self._process, self.adopted = taken.process, True
        self._at -= taken.age
        return taken.door

    def _exited(self, status: Exit) -> None:
        if self._process is None or self._left:
            return
        self._process = None
        self._ground.clean_up(self._run)
        self._ended(self, status)
