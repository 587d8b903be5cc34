"""What takes no new requests by an operator's word, kept on disk so that it outlives a reboot."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.config.private import write_private
from rolemesh.core.commands import Drained, draining
from rolemesh.node.aside import Aside

DISK = 2.0  # seconds that writing may take; a sick disk costs the memory of it, not the drain


class _Kept(Struct, omit_defaults=True):
    """The file."""

    node: Drained | None = None
    backends: dict[str, Drained] = {}


class Drains:
    """The node's and its backends' drains. `now` is the time of day: a pause goes on while the
    machine is off."""

    _log = Logger()

    def __init__(
        self, file: Path, aside: Aside, clock: IReactorTime, now: Callable[[], float]
    ) -> None:
        self._file = file
        self._aside = aside
        self._clock = clock
        self._now = now
        self._drained: dict[str | None, Drained] = {}

    def load(self) -> None:
        """Take in what was ordered in an earlier life."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as problem:
            self._log.error("what was drained cannot be read: {why}", why=str(problem))
            return
        self._drained.update(kept.backends)
        if kept.node is not None:
            self._drained[None] = kept.node

    def of(self, backend: str | None) -> str | None:
        """Why a backend, or with None the node, takes no new requests; None while it does."""
        found = draining(self._drained, backend, self._now())
        return None if found is None else str(found)

    async def drain(self, backend: str | None, reason: str, seconds: float | None) -> str:
        """Drain it, for a while or until it is resumed; why that cannot be kept, else empty."""
        until = None if seconds is None else self._now() + seconds
        self._drained[backend] = Drained(reason, until)
        return await self._keep()

    async def resume(self, backend: str | None) -> str:
        """Let it, or with None all of the node, take requests; as `drain`."""
        if backend is None:
            self._drained.clear()
        self._drained.pop(backend, None)
        return await self._keep()

    async def _keep(self) -> str:
        now = self._now()
        current = {name: each for name, each in self._drained.items() if not each.over(now)}
        self._drained = current
        backends = {name: each for name, each in current.items() if name is not None}
        text = msgspec.json.encode(_Kept(current.get(None), backends)).decode()
        writing = self._aside.do(write_private, self._file, text)
        try:
            await writing.addTimeout(DISK, self._clock)
        except CancelledError:
            raise
        except Exception as problem:
            why = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
            self._log.error("what is drained is not kept: {why}", why=why)
            return f"the state folder cannot keep it over a restart of the agent: {why}"
        return ""
