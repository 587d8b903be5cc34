"""One llama-server's life as a table: what happens, what follows, what is then done."""

from collections.abc import Mapping, Sequence
from enum import Enum

from attrs import frozen

from rolemesh.core.model import BackendState as State


class Event(Enum):
    """What happened to a llama-server."""

    START = "start"
    STOP = "stop"
    SPAWNED = "spawned"
    FAILED = "failed"
    ANSWERED = "answered"
    HEALTHY = "healthy"
    STRANGER = "stranger"
    STEADY = "steady"
    EXITED = "exited"
    ELAPSED = "elapsed"
    OVERDUE = "overdue"


class Action(Enum):
    """What the supervisor then does."""

    SPAWN = "spawn"
    PROBE = "probe"
    SETTLE = "settle"
    FORGIVE = "forgive"
    WAIT = "wait"
    TERMINATE = "terminate"
    KILL = "kill"


MEANINGS: Mapping[Enum, str] = {
    State.STOPPED: "no process, and none wanted",
    State.STARTING: "a process exists; nothing answers on its port yet",
    State.LOADING: "it answers and says that it loads its model",
    State.READY: "it is healthy and proved to be ours",
    State.STOPPING: "it was asked to end",
    State.BACKOFF: "no process; the next start waits for its time",
    Event.START: "the agent wants it to run",
    Event.STOP: "the agent wants it gone",
    Event.SPAWNED: "the process exists",
    Event.FAILED: "no process could be made: no port, no such GPU, fork refused",
    Event.ANSWERED: "`/health` answered 503",
    Event.HEALTHY: "`/health` answered 200, and the server proved to be ours",
    Event.STRANGER: "another program answers on its port",
    Event.STEADY: "it has been ready for `restart.reset_after`",
    Event.EXITED: "the process ended",
    Event.ELAPSED: "the pause is over",
    Event.OVERDUE: "the grace to end by itself is over",
    Action.SPAWN: "pick a port and a key, run llama-server",
    Action.PROBE: "ask it until it is ready, then how busy it is",
    Action.SETTLE: "begin to count its time as ready",
    Action.FORGIVE: "forget earlier exits, so that the next pause is short again",
    Action.WAIT: "pause, longer after each exit",
    Action.TERMINATE: "SIGTERM, and begin the grace",
    Action.KILL: "SIGKILL to its whole process group",
}


@frozen
class Move:
    """The state that follows, and what is done on the way."""

    to: State
    actions: tuple[Action, ...] = ()


MOVES: Mapping[tuple[State, Event], Move] = {
    (State.STOPPED, Event.START): Move(State.STARTING, (Action.SPAWN,)),
    (State.STARTING, Event.SPAWNED): Move(State.STARTING, (Action.PROBE,)),
    (State.STARTING, Event.FAILED): Move(State.BACKOFF, (Action.WAIT,)),
    (State.STARTING, Event.ANSWERED): Move(State.LOADING),
    (State.STARTING, Event.HEALTHY): Move(State.READY, (Action.SETTLE,)),
    (State.STARTING, Event.STRANGER): Move(State.STARTING, (Action.KILL,)),
    (State.STARTING, Event.EXITED): Move(State.BACKOFF, (Action.WAIT,)),
    (State.STARTING, Event.STOP): Move(State.STOPPING, (Action.TERMINATE,)),
    (State.LOADING, Event.HEALTHY): Move(State.READY, (Action.SETTLE,)),
    (State.LOADING, Event.STRANGER): Move(State.LOADING, (Action.KILL,)),
    (State.LOADING, Event.EXITED): Move(State.BACKOFF, (Action.WAIT,)),
    (State.LOADING, Event.STOP): Move(State.STOPPING, (Action.TERMINATE,)),
    (State.READY, Event.STEADY): Move(State.READY, (Action.FORGIVE,)),
    (State.READY, Event.EXITED): Move(State.BACKOFF, (Action.WAIT,)),
    (State.READY, Event.STOP): Move(State.STOPPING, (Action.TERMINATE,)),
    (State.STOPPING, Event.OVERDUE): Move(State.STOPPING, (Action.KILL,)),
    (State.STOPPING, Event.EXITED): Move(State.STOPPED),
    (State.BACKOFF, Event.ELAPSED): Move(State.STARTING, (Action.SPAWN,)),
    (State.BACKOFF, Event.STOP): Move(State.STOPPED),
}

# It loads and says so again, or it is stopped twice: nothing new.
REPEATED = frozenset(
    {
        (State.LOADING, Event.ANSWERED),
        (State.STOPPED, Event.STOP),
        (State.STOPPING, Event.STOP),
    }
)
# What was on its way when the stop was ordered.
OVERTAKEN = frozenset(
    (State.STOPPING, event)
    for event in (Event.SPAWNED, Event.ANSWERED, Event.HEALTHY, Event.STRANGER, Event.STEADY)
)
IGNORED = REPEATED | OVERTAKEN


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
    ignored = sorted(f"{event.value} while {state.value}" for state, event in IGNORED)
    words = [f"- **{word.value}**: {meaning}" for word, meaning in MEANINGS.items()]
    return "\n".join(
        [
            "| state | event | next state | then |",
            "|---|---|---|---|",
            *rows,
            "",
            "Ignored: " + ", ".join(ignored) + ". Anything else is a fault of RoleMesh.",
            "",
            *words,
            "",
        ]
    )


def _names(actions: Sequence[Action]) -> str:
    return ", ".join(action.value for action in actions) or "-"
