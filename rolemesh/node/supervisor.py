"""One llama-server's life, performed: what the table in `core.lifecycle` orders is done here."""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.core import lifecycle
from rolemesh.core.endings import Ending, Reason
from rolemesh.core.lifecycle import Action, Event
from rolemesh.core.model import BackendState as State
from rolemesh.core.vigil import Signs
from rolemesh.node.history import History
from rolemesh.node.judge import Judge
from rolemesh.node.logs import ServerLog
from rolemesh.node.means import CannotStart, Door, Means, Stranger, Unkillable
from rolemesh.node.pending import Pending
from rolemesh.node.process import Exit
from rolemesh.node.start import Start
from rolemesh.node.talk import Talk

KILL_PATIENCE = 5.0  # seconds that SIGKILL may take

_ALIVE = frozenset({State.STARTING, State.LOADING, State.READY, State.SUSPECT})
_PAUSING = frozenset({State.BACKOFF, State.CRASH_LOOP})
_EXPLAINED = _PAUSING | {State.REPLACING, State.UNKILLABLE, State.GPU_LOST}


class Server:
    """One `run:` entry, kept alive from `start` to `stop`. `changed` is called on each change."""

    _logger = Logger()

    def __init__(self, run: Run, means: Means, changed: Callable[[], None]) -> None:
        self.run = run
        self.state = State.STOPPED
        self.door: Door | None = None
        self.log = ServerLog(means.clock, run.id)
        self.judge = Judge(means.clock, means.patience, self)
        self.talk = Talk(run, means, self.judge, self._handle, changed)
        self._means = means
        self._changed = changed
        self._history = History(means.restart)
        self._events: deque[Event] = deque()
        self._handling = False
        self._starts = 0
        self._start = self._new_start()
        self._verdict: Ending | None = None
        self._pending = Pending(means.clock, run.id, self._handle)
        self._stopped: list[Deferred[None]] = []
        self._perform: Mapping[Action, Callable[[], None]] = {
            Action.SPAWN: self._begin,
            Action.PROBE: self._ask,
            Action.SETTLE: self._settle,
            Action.FORGIVE: self._history.forgive,
            Action.WAIT: self._wait,
            Action.REST: self._rest,
            Action.WATCH: self._watch,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
        }

    def start(self) -> None:
        """Run it, and run it again whenever it ends."""
        self._handle(Event.START)

    def stop(self) -> Deferred[None]:
        """End it for good. Fires when the process is gone, or when even SIGKILL does not end it."""
        self._handle(Event.STOP)
        done: Deferred[None] = Deferred()
        if self.state is State.STOPPED:
            done.callback(None)
        else:
            self._stopped.append(done)
        return done

    def restart(self) -> bool:
        """Start it again now, as an operator wants it: no failure, and earlier ones are forgiven.

        False where it is on its way already, or where nothing can be started.
        """
        beginning = self.state is State.STARTING and self.pid is None
        if beginning or (self.state, Event.RESTART) not in lifecycle.MOVES:
            return False
        self._history.forget()
        self._verdict = Ending(Reason.ORDERED, "an operator wanted it started again")
        self._handle(Event.RESTART)
        return True

    def kill(self) -> None:
        """End the process this instant, where the agent itself has no time left."""
        self._start.kill()

    def leave(self) -> bool:
        """Whether its process goes on without us, to be adopted by the next agent; else `stop`."""
        if self.state not in _ALIVE or self.pid is None or not self._means.ground.keeps(self.run):
            return False
        self._start.leave()
        self.judge.stop()
        self._pending.forget_time()
        self._pending.forget_work()
        return True

    @property
    def settling(self) -> bool:
        """Whether it was adopted and has not answered yet."""
        return self._start.adopted and self.state is State.STARTING

    def gpus_changed(self) -> None:
        """NVML has told something new."""
        lost = self._means.ground.lost_gpu(self.run)
        if lost and self.state in _ALIVE:
            self._verdict = Ending(Reason.GPU_LOST, lost, uptime=self.age)
        self._handle(Event.LOST if lost else Event.FOUND)

    def woke(self) -> None:
        """The machine slept: what was ready is not told to be, until it answers."""
        self.judge.doubt()

    def look(self) -> Signs:
        """What the machine sees of its process now."""
        return self._means.ground.signs(self.run, self.pid or 0)

    def lines(self) -> int:
        """How much it has logged."""
        return self.log.count

    def judged(self, event: Event, still: float) -> None:
        """Nothing has moved for `still` seconds, or it moves again."""
        if event in (Event.HUNG, Event.WEDGED):
            reason = Reason.HUNG if event is Event.HUNG else Reason.WEDGED
            self._verdict = Ending(reason, f"no progress for {still:.0f} s, {self.state.value}")
        self._handle(event)

    @property
    def pid(self) -> int | None:
        """Its process, which also leads the session of all that it forks."""
        return self._start.pid

    @property
    def note(self) -> str:
        """What may keep it from fitting where it runs, empty where nothing does."""
        return self._means.ground.note(self.run)

    @property
    def last_ending(self) -> Ending | None:
        """How it last ended, None while it never has."""
        return self._history.last

    @property
    def restarts(self) -> int:
        return max(0, self._starts - 1)

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        return self._start.age

    @property
    def retry_in(self) -> float | None:
        """Seconds to the next start, None unless it pauses."""
        return self._pending.seconds if self.state in _PAUSING else None

    def _handle(self, event: Event) -> None:
        """Make the event's move; events that its actions cause follow after it, in order."""
        self._events.append(event)
        if self._handling:
            return
        self._handling = True
        try:
            while self._events:
                self._move(self._events.popleft())
        finally:
            self._handling = False

    def _move(self, event: Event) -> None:
        before = self.state
        move = lifecycle.step(before, event)
        self._enter(move.to)
        for action in move.actions:
            self._perform[action]()
        if move.to is not before:
            self._announce(before)

    def _enter(self, state: State) -> None:
        """A timer belongs to the state that set it, questions to a process that may answer."""
        if state is self.state:
            return
        self.state = state
        self._pending.forget_time()
        if state not in _ALIVE:
            self.judge.stop()
            self._pending.forget_work()

    def _announce(self, before: State) -> None:
        why = f" ({self._verdict or self.last_ending})" if self.state in _EXPLAINED else ""
        self._logger.info(
            "{backend}: {before} -> {state}{why}",
            before=before.value,
            state=self.state.value,
            why=why,
            backend=self.run.id,
            **{"rolemesh.backend": self.run.id},
        )
        if self.state is State.STOPPED:
            self._tell_stopped()
        self._changed()

    def _tell_stopped(self) -> None:
        waiting, self._stopped = self._stopped, []
        for done in waiting:
            done.callback(None)

    def _begin(self) -> None:
        self._starts += 1
        self._start = self._new_start()
        self._verdict = None
        self.judge.forget()
        self.talk.forget()
        self._pending.work(self._run_server())

    def _new_start(self) -> Start:
        return Start(self.run, self._means, self.log, self._exited)

    async def _run_server(self) -> Event:
        try:
            self.door = await self._start.begin()
        except CancelledError:
            raise
        except CannotStart as problem:
            self._remember(problem.ending)
            self._have_a_door()
            return Event.BLOCKED if isinstance(problem, Unkillable) else Event.FAILED
        except Exception:
            self._logger.failure("{backend}: its start broke", backend=self.run.id)
            self._remember(Ending(Reason.UNKNOWN, "a fault of the agent; its log tells more"))
            return Event.FAILED
        return Event.SPAWNED

    def _have_a_door(self) -> None:
        """A gateway is told of servers that have a place, also of those that never began."""
        if self.door is None:
            with suppress(CannotStart):
                self.door = self._means.ground.open_door(self.run)

    def _exited(self, start: Start, status: Exit) -> None:
        if start is not self._start:
            return
        if self.state is not State.STOPPING:
            self._remember(start.cause(status, self._verdict))
        self._handle(Event.EXITED)

    def _remember(self, ending: Ending) -> None:
        self._verdict = None
        self._history.add(ending, self._means.clock.seconds())
        self.judge.forget()

    def _ask(self) -> None:
        assert self.door is not None  # a SPAWNED server has one
        self.judge.start()
        self._pending.work(self._talk_with(self.door))

    async def _talk_with(self, door: Door) -> Event:
        try:
            await self.talk.hold(door, self.pid or 0)
        except Stranger as stranger:
            detail = f"another program answers there: {stranger}"
            self._verdict = Ending(Reason.PORT_IN_USE, detail)
        return Event.STRANGER

    def _settle(self) -> None:
        self._pending.later(self._means.restart.reset_after, Event.STEADY)

    def _wait(self) -> None:
        if self._means.ground.lost_gpu(self.run):
            self._handle(Event.LOST)
        elif self._history.looping(self._means.clock.seconds()):
            self._handle(Event.LOOPING)
        else:
            self._pending.later(self._history.pause(self._means.random()), Event.ELAPSED)

    def _rest(self) -> None:
        self._pending.later(self._history.rest(), Event.ELAPSED)

    def _watch(self) -> None:
        self._pending.work(self._until_gone())

    async def _until_gone(self) -> Event:
        await self._start.until_gone()
        return Event.EXITED

    def _terminate(self) -> None:
        if self.pid is None:
            self._handle(Event.EXITED)
            return
        self._start.terminate()
        self._pending.later(self._means.grace, Event.OVERDUE)

    def _kill(self) -> None:
        self.kill()
        self._pending.later(KILL_PATIENCE, Event.DEFIANT)
