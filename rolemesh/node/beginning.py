"""How a server comes to its process: one that an earlier agent left, or else a new one."""

from collections.abc import Callable

from attrs import frozen
from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.node.logs import ServerLog
from rolemesh.node.means import Door, Ground, Process, Taken
from rolemesh.node.process import Child, Exit

_log = Logger()


@frozen
class Begun:
    """A process, where it answers, and its age in seconds."""

    door: Door
    process: Process
    age: float = 0.0
    adopted: bool = False


async def begin(run: Run, ground: Ground, log: ServerLog, exited: Callable[[Exit], None]) -> Begun:
    """A process whose lines go to the log and whose end is told once.

    :raises CannotStart: when there can be none now.
    """
    taken = await ground.adopt(run, log.cutter(), exited)
    if taken is not None:
        return _taken_over(run, log, taken)
    await ground.make_room(run)
    child = Child(log.cutter(), log.cutter(), exited)
    door = ground.open_door(run)
    log.begin(ground.run_server(run, door, child))
    return Begun(door, child)


def _taken_over(run: Run, log: ServerLog, taken: Taken) -> Begun:
    """A load that it began under another agent is not a new one, so its age is its own."""
    _log.info(
        "{backend}: adopted process {pid}, {age:.0f} s old",
        backend=run.id,
        pid=taken.process.pid,
        age=taken.age,
    )
    log.begin(taken.secrets)
    log.recall(taken.tail)
    taken.process.watch()
    return Begun(taken.door, taken.process, taken.age, adopted=True)
