"""Ends what an earlier start or an earlier agent left behind, and nothing else.

A process is ours by its record (pid, start time and boot are the same), by the session of such a
one, or by the tag in its environment. Never by its name, its port or its place in a group.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping

from rolemesh.node.identity import Identity, Records, living
from rolemesh.node.proc import Process, carries, kill, process, processes

PATIENCE = 5.0  # seconds that SIGKILL may take
PAUSE = 0.02


class Survivors:
    """Of one state folder. Its methods wait for the disk and for processes to end."""

    def __init__(self, records: Records, instance: str) -> None:
        self._records = records
        self._instance = instance

    def tag(self, backend: str) -> str:
        """What a server and all that it forks carry in their environment."""
        return f"{self._instance}:{backend}"

    def recorded(self) -> dict[str, Identity]:
        """All that have a record, by backend."""
        return {each.backend: each for each in self._records.read()}

    def end_all(self, sparing: Mapping[str, Identity] | None = None) -> list[int]:
        """End all that carries our tag or has a record, but for what belongs to the spared
        servers; the pids of those that would not go."""
        spared = sparing or {}
        recorded = [each for each in self._records.read() if each.backend not in spared]
        left = _end(lambda: self._others(recorded, spared))
        for identity in recorded:
            if identity.pid not in left:
                self._records.forget(identity.backend)
        return left

    def _others(
        self, recorded: Iterable[Identity], spared: Mapping[str, Identity]
    ) -> list[Process]:
        sessions = {each.pid for each in living(spared.values())}
        tags = [self.tag(backend) for backend in spared]
        return [
            each
            for each in _find(f"{self._instance}:", recorded)
            if each.session not in sessions and not any(carries(each, tag) for tag in tags)
        ]

    def end(self, backend: str) -> list[int]:
        """The same for what is left of one server."""
        recorded = [each for each in self._records.read() if each.backend == backend]
        left = _end(lambda: _find(self.tag(backend), recorded))
        if not left:
            self._records.forget(backend)
        return left

    def gpus_of(self, backend: str) -> tuple[str, ...]:
        """The GPUs that its record names."""
        found = (each.gpus for each in self._records.read() if each.backend == backend)
        return next(found, ())


def _find(tag: str, recorded: Iterable[Identity]) -> list[Process]:
    own = _ourselves()
    leaders = living(recorded)
    sessions = {leader.pid for leader in leaders}
    known = {leader.same for leader in leaders}
    return [
        each
        for each in processes()
        if each.pid not in own
        and not each.ended
        and (each.same in known or each.session in sessions or carries(each, tag))
    ]


def _ourselves() -> set[int]:
    """This process and all above it: an agent may be run from within what another one runs."""
    own: set[int] = set()
    pid = os.getpid()
    while pid and pid not in own:
        own.add(pid)
        above = process(pid)
        pid = above.parent if above else 0
    return own


def _end(find: Callable[[], list[Process]]) -> list[int]:
    deadline = time.monotonic() + PATIENCE
    while found := find():
        for each in found:
            kill(each)
        if time.monotonic() >= deadline:
            return [each.pid for each in found]
        time.sleep(PAUSE)
    return []
