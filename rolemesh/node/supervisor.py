"""One llama-server's life, performed: what the table in `core.lifecycle` orders is done here."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from rolemesh.config.node import Run
from rolemesh.core import lifecycle
from rolemesh.core.endings import REMEMBERED, Ending, Reason, classify, pause
from rolemesh.core.lifecycle import Action, Event
from rolemesh.core.model import BackendState as State
from rolemesh.node.logs import ServerLog
from rolemesh.node.means import CannotStart, Door, Facts, Means, Stranger
from rolemesh.node.process import Child, Exit

HEARD_LINES = 60  # of the log, where the cause of an exit is looked for

_ALIVE = frozenset({State.STARTING, State.LOADING, State.READY})


class Server:
    """One `run:` entry, kept alive from `start` to `stop`. `changed` is called on each change."""

    _logger = Logger()

    def __init__(self, run: Run, means: Means, changed: Callable[[], None]) -> None:
        self.run = run
        self.state = State.STOPPED
        self.door: Door | None = None
        self.facts = Facts()
        self.busy: int | None = None
        self.last_ending: Ending | None = None
        self.log = ServerLog(means.clock, run.id)
        self._means = means
        self._changed = changed
        self._events: deque[Event] = deque()
        self._handling = False
        self._spawn = 0
        self._spawned_at = 0.0
        self._kills_before = 0
        self._child: Child | None = None
        self._endings: tuple[Ending, ...] = ()
        self._stranger = ""
        self._timer: IDelayedCall | None = None
        self._questions: Deferred[None] | None = None
        self._stopped: list[Deferred[None]] = []
        self._perform: Mapping[Action, Callable[[], None]] = {
            Action.SPAWN: self._run_server,
            Action.PROBE: self._ask,
            Action.SETTLE: self._settle,
            Action.FORGIVE: self._forgive,
            Action.WAIT: self._wait,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
        }

    def start(self) -> None:
        """Run it, and run it again whenever it ends."""
        self._handle(Event.START)

    def stop(self) -> Deferred[None]:
        """End it for good. Fires when the process is gone."""
        self._handle(Event.STOP)
        done: Deferred[None] = Deferred()
        if self.state is State.STOPPED:
            done.callback(None)
        else:
            self._stopped.append(done)
        return done

    def kill(self) -> None:
        """End the process this instant, where the agent itself has no time left."""
        if self._child is not None:
            self._child.kill()

    @property
    def restarts(self) -> int:
        return max(0, self._spawn - 1)

    @property
    def age(self) -> float:
        """Seconds since its last start."""
        return self._means.clock.seconds() - self._spawned_at

    @property
    def retry_in(self) -> float | None:
        """Seconds to the next start, None unless it pauses."""
        if self.state is not State.BACKOFF or self._timer is None:
            return None
        return self._timer.getTime() - self._means.clock.seconds()

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
        self._cancel_timer()
        if state not in _ALIVE:
            self._stop_asking()

    def _announce(self, before: State) -> None:
        why = f" ({self.last_ending})" if self.state is State.BACKOFF else ""
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

    def _run_server(self) -> None:
        self._spawn += 1
        self._spawned_at = self._means.clock.seconds()
        self._kills_before = self._means.ground.kernel_kills()
        self.facts, self.busy, self._stranger = Facts(), None, ""
        exited = partial(self._exited, self._spawn)
        self._child = Child(self.log.cutter(), self.log.cutter(), exited)
        try:
            self.door = self._means.ground.open_door(self.run)
            secrets = self._means.ground.run_server(self.run, self.door, self._child)
        except CannotStart as problem:
            self._child = None
            self._remember(problem.ending)
            self._handle(Event.FAILED)
        else:
            self.log.begin(secrets)
            self._handle(Event.SPAWNED)

    def _exited(self, spawn: int, status: Exit) -> None:
        if spawn != self._spawn or self._child is None:
            return
        self._child = None
        if self.state is not State.STOPPING:
            self._remember(self._cause(status))
        self._handle(Event.EXITED)

    def _cause(self, status: Exit) -> Ending:
        lines = self.log.tail(HEARD_LINES)
        uptime = self.age
        if self._stranger:
            return Ending(Reason.PORT_IN_USE, self._stranger, tuple(lines), uptime)
        killed = self._means.ground.kernel_kills() > self._kills_before
        return classify(status.code, status.signal, lines, out_of_memory=killed, uptime=uptime)

    def _remember(self, ending: Ending) -> None:
        self.last_ending = ending
        self._endings = (*self._endings, ending)[-REMEMBERED:]
        self.busy = None

    def _ask(self) -> None:
        assert self.door is not None  # a SPAWNED server has one
        asking = Deferred.fromCoroutine(self._conversation(self._spawn, self.door))
        self._questions = asking
        asking.addErrback(lambda failure: failure.trap(CancelledError) and None)
        asking.addErrback(self._broken)

    async def _conversation(self, spawn: int, door: Door) -> None:
        probe = self._means.probe
        try:
            facts = await probe.until_ready(door, partial(self._handle, Event.ANSWERED))
        except Stranger as stranger:
            self._stranger = f"another program answers there: {stranger}"
            self._handle(Event.STRANGER)
            return
        if spawn == self._spawn:
            self._learn(facts)
            await probe.watch_slots(door, self._note_busy)

    def _learn(self, facts: Facts) -> None:
        self.facts = facts
        if facts.context < self.run.context:
            self._logger.warn(
                "{backend}: {wanted} tokens per slot were asked for, the server has {context}",
                wanted=self.run.context,
                context=facts.context,
                backend=self.run.id,
            )
        self._handle(Event.HEALTHY)

    def _note_busy(self, slots: int | None) -> None:
        self.busy = slots

    def _broken(self, failure: Failure) -> None:
        self._logger.failure("{backend}: its probe broke", failure, backend=self.run.id)

    def _settle(self) -> None:
        self._later(self._means.restart.reset_after, Event.STEADY)

    def _forgive(self) -> None:
        self._endings = ()

    def _wait(self) -> None:
        restart = self._means.restart
        wait = pause(self._endings, restart.first, restart.longest, self._means.random())
        self._later(wait, Event.ELAPSED)

    def _terminate(self) -> None:
        if self._child is not None:
            self._child.terminate()
        self._later(self._means.grace, Event.OVERDUE)

    def _kill(self) -> None:
        self.kill()

    def _later(self, seconds: float, event: Event) -> None:
        self._cancel_timer()
        self._timer = self._means.clock.callLater(seconds, self._elapsed, event)

    def _elapsed(self, event: Event) -> None:
        self._timer = None
        self._handle(event)

    def _cancel_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _stop_asking(self) -> None:
        questions, self._questions = self._questions, None
        if questions is not None:
            questions.cancel()
