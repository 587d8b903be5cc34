"""Whether there is room for a model on its GPUs, and a short wait where somebody holds it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.core.endings import Reason
from rolemesh.core.fit import Fit
from rolemesh.core.report import GpuReport
from rolemesh.node.aside import Aside
from rolemesh.node.estimate import NoPlainFile, Weights, estimate, read_weights
from rolemesh.node.gpu import Gpus
from rolemesh.node.means import CannotStart
from rolemesh.wholeness import NotWhole, Wholes

DISK = 2.0  # seconds that the head of a file may take; a sick disk makes no estimate
WAIT = 30.0  # seconds that memory may take to become free
LOOK_EVERY = 1.0

T = TypeVar("T")


class Room:
    """Looks before each start. `notes` says of an entry what may keep it from fitting, empty
    where nothing does. The heads of `models` are read apart from all else: the disk that they are
    on may be in another house."""

    _log = Logger()

    def __init__(self, clock: IReactorTime, gpus: Gpus, models: Aside) -> None:
        self.notes: dict[str, str] = {}
        self._clock = clock
        self._gpus = gpus
        self._models = models
        self._in_vain: dict[str, int] = {}
        self._wholes = Wholes()

    async def find(self, run: Run, uuids: Sequence[str], ended: int | None) -> None:
        """Wait while somebody else holds what it needs, warn, refuse only what can never be.

        `ended` is its last process, as in `estimate`.

        :raises CannotStart: when it can never fit, or its file is not there, not whole, or is none.
        """
        weights = await self._read(run)
        if weights is None or (self._gpus.sample and not run.gpu.wanted and not run.gpu.none):
            return  # which GPUs it takes is the machine's own setting
        found = await self._wait(run, weights, uuids, ended)
        if found.never:
            raise CannotStart(Reason.GPU_MEMORY, found.note)
        if found.note and found.note != self.notes.get(run.id):
            self._log.warn("{backend}: {note}", backend=run.id, note=found.note)
        self.notes[run.id] = found.note

    def used(self, uuids: Sequence[str]) -> list[GpuReport]:
        """These GPUs, as they were last seen."""
        return [gpu for gpu in self._gpus.sample if gpu.uuid in uuids]

    async def _read(self, run: Run) -> Weights | None:
        """None where nobody knows."""
        try:
            weights = await self._aside(read_weights, run.file)
            if weights is not None:
                await self._aside(self._wholes.check, run.file)
        except FileNotFoundError as missing:
            name = Path(missing.filename).name
            raise CannotStart(Reason.MODEL_MISSING, f"no file {name}") from None
        except (NoPlainFile, NotWhole) as broken:
            raise CannotStart(Reason.MODEL_BROKEN, f"{run.file.name} {broken}") from None
        return weights

    async def _aside(self, read: Callable[[Path], T], file: Path) -> T | None:
        """None where the disk does not tell, or not soon."""
        try:
            return await self._models.do(read, file).addTimeout(DISK, self._clock)
        except FileNotFoundError:
            raise
        except (OSError, TooLate):
            return None

    async def _wait(
        self, run: Run, weights: Weights, uuids: Sequence[str], ended: int | None
    ) -> Fit:
        """Not again where it was in vain and no more is held since: whoever stays, stays."""
        found = estimate(run, weights, self.used(uuids), ended)
        if not found.note or not self._held_by_others(run, weights, uuids):
            return found
        if self._free(uuids) >= self._in_vain.get(run.id, self._free(uuids) + 1):
            return found
        self._log.info(
            "{backend} waits up to {most:.0f} s for memory that others hold: {note}",
            backend=run.id,
            most=WAIT,
            note=found.note,
        )
        until = self._clock.seconds() + WAIT
        while found.note and self._clock.seconds() < until:
            await deferLater(self._clock, LOOK_EVERY)
            found = estimate(run, weights, self.used(uuids), ended)
        if found.note:
            self._in_vain[run.id] = self._free(uuids)
        return found

    def _held_by_others(self, run: Run, weights: Weights, uuids: Sequence[str]) -> bool:
        """Whether it would fit on the same GPUs, were they empty."""
        empty = [replace(gpu, memory_used=0, processes=()) for gpu in self.used(uuids)]
        return run.gpu.wanted and not estimate(run, weights, empty).note

    def _free(self, uuids: Sequence[str]) -> int:
        return sum((gpu.memory_total or 0) - (gpu.memory_used or 0) for gpu in self.used(uuids))
