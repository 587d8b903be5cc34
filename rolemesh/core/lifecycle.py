"""One llama-server's life as a table: what happens, what follows, what is then done."""

from collections.abc import Mapping, Sequence
from enum import Enum

from attrs import frozen

from rolemesh.core.model import BackendState as State


class Event(Enum):
    """What happened to a llama-server."""

    START = "start"
    STOP = "stop"
    RESTART = "restart"
    SPAWNED = "spawned"
    FAILED = "failed"
    BLOCKED = "blocked"
    ANSWERED = "answered"
    HEALTHY = "healthy"
    STRANGER = "stranger"
    HUNG = "hung"
    STEADY = "steady"
    STALLED = "stalled"
    MOVED = "moved"
    WEDGED = "wedged"
    LOST = "lost"
    FOUND = "found"
    EXITED = "exited"
    LOOPING = "looping"
    ELAPSED = "elapsed"
    OVERDUE = "overdue"
    DEFIANT = "defiant"


class Action(Enum):
    """What the supervisor then does."""

    SPAWN = "spawn"
    PROBE = "probe"
    SETTLE = "settle"
    FORGIVE = "forgive"
    WAIT = "wait"
    REST = "rest"
    WATCH = "watch"
    TERMINATE = "terminate"
    KILL = "kill"


MEANINGS: Mapping[Enum, str] = {
    State.STOPPED: "none is wanted",
    State.STARTING: "a process exists or is being made; nothing answers on its port yet",
    State.LOADING: "it answers and says that it loads its model",
    State.READY: "it is healthy and proved to be ours",
    State.SUSPECT: "it has made no progress for a while: no new requests, running ones go on",
    State.REPLACING: "it is being ended, so that another one can start",
    State.STOPPING: "it was asked to end for good",
    State.BACKOFF: "no process; the next start waits for its time",
    State.CRASH_LOOP: "no process; it ended too often of late, the next start waits a minute",
    State.UNKILLABLE: "a process outlives SIGKILL; nothing is started while it lives",
    State.GPU_LOST: "no process; one of its GPUs fell off the bus and has to come back first",
    Event.START: "the agent wants it to run",
    Event.STOP: "the agent wants it gone",
    Event.RESTART: "an operator wants it to end and to start again",
    Event.SPAWNED: "the process exists",
    Event.FAILED: "no process could be made: no port, no such GPU, no such file, fork refused",
    Event.BLOCKED: "a process of an earlier start outlives SIGKILL",
    Event.ANSWERED: "`/health` answered 503",
    Event.HEALTHY: "`/health` answered 200, and the server proved to be ours",
    Event.STRANGER: "another program answers on its port",
    Event.HUNG: "it starts or loads, and nothing moved for 300 s",
    Event.STEADY: "it has been ready for `restart.reset_after`",
    Event.STALLED: "it is silent, or its busy slots produced nothing, for 30 s",
    Event.MOVED: "it makes progress again",
    Event.WEDGED: "no progress for 120 s",
    Event.LOST: "NVML lost a GPU that it uses",
    Event.FOUND: "NVML sees all of its GPUs again",
    Event.EXITED: "the process ended",
    Event.LOOPING: "it ended more than 5 times within 300 s",
    Event.ELAPSED: "the pause is over",
    Event.OVERDUE: "the grace to end by itself is over",
    Event.DEFIANT: "it lives 5 s after SIGKILL",
    Action.SPAWN: "end what an earlier start left, pick a port and a key, run llama-server",
    Action.PROBE: "ask it until it is ready, then how busy it is; watch its progress",
    Action.SETTLE: "begin to count its time as ready",
    Action.FORGIVE: "forget earlier exits, so that the next pause is short again",
    Action.WAIT: "pause, longer after each exit",
    Action.REST: "pause for a minute",
    Action.WATCH: "look again and again whether that process is gone",
    Action.TERMINATE: "SIGTERM, and begin the grace",
    Action.KILL: "SIGKILL to it and all that it forked",
}


@frozen
class Move:
    """The state that follows, and what is done on the way."""

    to: State
    actions: tuple[Action, ...] = ()


_PAUSE = Move(State.BACKOFF, (Action.WAIT,))
_STOP = Move(State.STOPPING, (Action.TERMINATE,))
_SPAWN = Move(State.STARTING, (Action.SPAWN,))
_REPLACE = Move(State.REPLACING, (Action.TERMINATE,))
_KILL_AND_REPLACE = Move(State.REPLACING, (Action.KILL,))

MOVES: Mapping[tuple[State, Event], Move] = {
    (State.STOPPED, Event.START): _SPAWN,
    (State.STARTING, Event.SPAWNED): Move(State.STARTING, (Action.PROBE,)),
    (State.STARTING, Event.FAILED): _PAUSE,
    (State.STARTING, Event.BLOCKED): Move(State.UNKILLABLE, (Action.WATCH,)),
    (State.STARTING, Event.ANSWERED): Move(State.LOADING),
    (State.STARTING, Event.HEALTHY): Move(State.READY, (Action.SETTLE,)),
    (State.STARTING, Event.STRANGER): _KILL_AND_REPLACE,
    (State.STARTING, Event.HUNG): _KILL_AND_REPLACE,
    (State.STARTING, Event.LOST): _REPLACE,
    (State.STARTING, Event.EXITED): _PAUSE,
    (State.STARTING, Event.STOP): _STOP,
    (State.STARTING, Event.RESTART): _REPLACE,
    (State.LOADING, Event.HEALTHY): Move(State.READY, (Action.SETTLE,)),
    (State.LOADING, Event.STRANGER): _KILL_AND_REPLACE,
    (State.LOADING, Event.HUNG): _KILL_AND_REPLACE,
    (State.LOADING, Event.LOST): _REPLACE,
    (State.LOADING, Event.EXITED): _PAUSE,
    (State.LOADING, Event.STOP): _STOP,
    (State.LOADING, Event.RESTART): _REPLACE,
    (State.READY, Event.STEADY): Move(State.READY, (Action.FORGIVE,)),
    (State.READY, Event.STALLED): Move(State.SUSPECT),
    (State.READY, Event.LOST): _REPLACE,
    (State.READY, Event.EXITED): _PAUSE,
    (State.READY, Event.STOP): _STOP,
    (State.READY, Event.RESTART): _REPLACE,
    (State.SUSPECT, Event.MOVED): Move(State.READY, (Action.SETTLE,)),
    (State.SUSPECT, Event.WEDGED): _REPLACE,
    (State.SUSPECT, Event.LOST): _REPLACE,
    (State.SUSPECT, Event.EXITED): _PAUSE,
    (State.SUSPECT, Event.STOP): _STOP,
    (State.SUSPECT, Event.RESTART): _REPLACE,
    (State.REPLACING, Event.OVERDUE): _KILL_AND_REPLACE,
    (State.REPLACING, Event.DEFIANT): Move(State.UNKILLABLE),
    (State.REPLACING, Event.EXITED): _PAUSE,
    (State.REPLACING, Event.STOP): _STOP,
    (State.STOPPING, Event.OVERDUE): Move(State.STOPPING, (Action.KILL,)),
    (State.STOPPING, Event.DEFIANT): Move(State.STOPPED),
    (State.STOPPING, Event.EXITED): Move(State.STOPPED),
    (State.BACKOFF, Event.LOOPING): Move(State.CRASH_LOOP, (Action.REST,)),
    (State.BACKOFF, Event.LOST): Move(State.GPU_LOST),
    (State.BACKOFF, Event.ELAPSED): _SPAWN,
    (State.BACKOFF, Event.STOP): Move(State.STOPPED),
    (State.BACKOFF, Event.RESTART): _SPAWN,
    (State.CRASH_LOOP, Event.LOST): Move(State.GPU_LOST),
    (State.CRASH_LOOP, Event.ELAPSED): _SPAWN,
    (State.CRASH_LOOP, Event.STOP): Move(State.STOPPED),
    (State.CRASH_LOOP, Event.RESTART): _SPAWN,
    (State.UNKILLABLE, Event.EXITED): _PAUSE,
    (State.UNKILLABLE, Event.STOP): Move(State.STOPPED),
    (State.GPU_LOST, Event.FOUND): _PAUSE,
    (State.GPU_LOST, Event.STOP): Move(State.STOPPED),
}

# It loads and says so again, it is stopped twice, or it ends after it was given up: nothing new.
REPEATED = frozenset(
    {
        (State.LOADING, Event.ANSWERED),
        (State.STOPPED, Event.STOP),
        (State.STOPPED, Event.EXITED),
        (State.STOPPING, Event.STOP),
    }
)
# What was on its way when its end was ordered.
OVERTAKEN = frozenset(
    (state, event)
    for state in (State.STOPPING, State.REPLACING)
    for event in (Event.SPAWNED, Event.ANSWERED, Event.HEALTHY, Event.STRANGER, Event.STEADY)
)
# What is seen from outside, whether or not it matters now.
SEEN = frozenset(
    (state, event)
    for state in State
    for event in (Event.HUNG, Event.STALLED, Event.MOVED, Event.WEDGED, Event.LOST, Event.FOUND)
)
IGNORED = (REPEATED | OVERTAKEN | SEEN) - MOVES.keys()


class ImpossibleEvent(Exception):
    """An event that cannot happen in this state: a fault of RoleMesh."""


def step(state: State, event: Event) -> Move:
    """The move that an event makes.

    :raises ImpossibleEvent: for a pair that is neither in MOVES nor in IGNORED.
    """
    if (state, event) in IGNORED:
        return Move(state)
    try:
        return MOVES[state, event]
    except KeyError:
        raise ImpossibleEvent(f"{event.value} while {state.value}") from None


def markdown() -> str:
    """The table as docs/NODE_AGENT.md shows it."""
    rows = [
        f"| {state.value} | {event.value} | {move.to.value} | {_names(move.actions)} |"
        for (state, event), move in MOVES.items()
    ]
    ignored = sorted(f"{event.value} while {state.value}" for state, event in IGNORED - SEEN)
    seen = sorted({event.value for _, event in SEEN})
    words = [f"- **{word.value}**: {meaning}" for word, meaning in MEANINGS.items()]
    return "\n".join(
        [
            "| state | event | next state | then |",
            "|---|---|---|---|",
            *rows,
            "",
            f"Ignored: {', '.join(ignored)}; and {', '.join(seen)} where the table has no row.",
            "Anything else is a fault of RoleMesh.",
            "",
            *words,
            "",
        ]
    )


def _names(actions: Sequence[Action]) -> str:
    return ", ".join(action.value for action in actions) or "-"
