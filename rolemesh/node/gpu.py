"""The machine's GPUs, as a helper process last read them from NVML."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.logger import Logger

from rolemesh.config.node import GpuChoice
from rolemesh.core.report import GpuReport
from rolemesh.node.logs import LineCutter
from rolemesh.node.process import Child, Exit, run_child

HELPER = Path(__file__).with_name("nvml_helper.py")
INTERVAL = 5.0  # seconds between samples
DEADLINE = 5.0  # seconds that a sample may be late
PAUSE = 60.0  # seconds between a helper's end and the next one
MOST_GPUS = 64
LONGEST_SAMPLE = 256 * 1024  # bytes


class NoSuchGpu(Exception):
    """The file names a GPU that is not here."""


class _Sample(msgspec.Struct):
    """One line of the helper."""

    gpus: tuple[GpuReport, ...] = ()
    error: str = ""


_decoder = msgspec.json.Decoder(_Sample)


class Gpus(Service):
    """What NVML last said. Nobody waits for it but those who name a GPU, and they at most once.

    `settled` fires when the first sample is there, or when it is clear that none will come soon;
    `on_sample` callbacks run with each good one. Another maker's cards are another `helper`: a
    program that prints the same lines, called with the seconds between two of them.
    """

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        processes: IReactorProcess,
        environ: Mapping[str, str],
        helper: Path = HELPER,
    ) -> None:
        self.sample: tuple[GpuReport, ...] = ()
        self.on_sample: list[Callable[[], None]] = []
        self.settled: Deferred[None] = Deferred()
        self._problem = ""
        self._clock = clock
        self._processes = processes
        self._environ = environ
        self._program = helper
        self._helper: Child | None = None
        self._turn = 0
        self._timer: IDelayedCall | None = None

    def startService(self) -> None:
        super().startService()
        self._run_helper()

    def stopService(self) -> None:
        super().stopService()
        self._cancel_timer()
        self._abandon_helper()

    def choose(self, choice: GpuChoice) -> tuple[str, ...]:
        """The UUIDs of the chosen GPUs.

        :raises NoSuchGpu: when one is not here; says what is.
        """
        return choose(choice, self.sample, self._problem)

    def _run_helper(self) -> None:
        self._turn += 1
        turn = self._turn
        heard = LineCutter(lambda lines: self._hear(turn, lines[-1]), LONGEST_SAMPLE)
        complaints = LineCutter(lambda _: None)
        self._helper = Child(heard, complaints, lambda status: self._ended(turn, status))
        self._after(INTERVAL + DEADLINE, self._late)
        command = [sys.executable, "-I", str(self._program), str(INTERVAL)]
        try:
            run_child(self._processes, self._helper, command, self._environ)
        except OSError as problem:
            self._give_up(f"its helper cannot run: {problem.strerror}")

    def _hear(self, turn: int, line: bytes) -> None:
        if turn != self._turn:
            return
        try:
            sample = _decoder.decode(line)
        except msgspec.MsgspecError as problem:
            self._give_up(f"its helper is not understood: {problem}")
            return
        if sample.error:
            self._give_up(sample.error)
            return
        self.sample = _with_lost(sample.gpus, self.sample)
        self._after(INTERVAL + DEADLINE, self._late)
        self._note("")
        for tell in self.on_sample:
            tell()

    def _ended(self, turn: int, status: Exit) -> None:
        if turn == self._turn:
            self._give_up(f"its helper ended with {status.signal or status.code}")

    def _late(self) -> None:
        self._give_up(f"no answer within {INTERVAL + DEADLINE:.0f} s")

    def _give_up(self, problem: str) -> None:
        """Go on without NVML, and try a new helper later."""
        self._abandon_helper()
        self.sample = tuple(_silent(gpu, problem) for gpu in self.sample)
        self._after(PAUSE, self._run_helper)
        self._note(problem)

    def _note(self, problem: str) -> None:
        """Say once what changed, and let those go on who wait for the first word."""
        if problem and problem != self._problem:
            self._log.info("no GPU readings, NVML says: {problem}", problem=problem)
        elif not problem and (self._problem or not self.settled.called):
            self._log.info("{count} GPUs by NVML", count=len(self.sample))
        self._problem = problem
        if not self.settled.called:
            self.settled.callback(None)

    def _abandon_helper(self) -> None:
        """Kill it and no longer listen; one that the driver holds may outlive the signal."""
        self._turn += 1
        helper, self._helper = self._helper, None
        if helper is not None and helper.transport is not None:
            helper.kill()

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._cancel_timer()
        self._timer = self._clock.callLater(seconds, call)

    def _cancel_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _with_lost(seen: Sequence[GpuReport], before: Sequence[GpuReport]) -> tuple[GpuReport, ...]:
    """With the cards that are not there any more; one without a name may be one of them."""
    names = {gpu.uuid for gpu in seen if gpu.uuid}
    gone = [gpu for gpu in before if gpu.uuid and gpu.uuid not in names]
    places = {gpu.index for gpu in gone}
    here = [gpu for gpu in seen if gpu.uuid or gpu.index not in places]
    missing = [replace(_silent(gpu, "NVML does not see it any more"), lost=True) for gpu in gone]
    return (*here, *missing)


def _silent(gpu: GpuReport, problem: str) -> GpuReport:
    return GpuReport(
        uuid=gpu.uuid,
        name=gpu.name,
        index=gpu.index,
        pci=gpu.pci,
        memory_total=gpu.memory_total,
        lost=gpu.lost,
        reason=problem[:256],
    )


def choose(choice: GpuChoice, gpus: Sequence[GpuReport], problem: str = "") -> tuple[str, ...]:
    """The UUIDs that a choice names, in its order; UUIDs pass even where NVML is silent.

    :raises NoSuchGpu: when one is not here, or a name fits several; says what is here.
    """
    if choice.all:
        if not gpus:
            raise NoSuchGpu(f"all GPUs are wanted, {_here(gpus, problem)}")
        return tuple(gpu.uuid for gpu in gpus)
    return tuple(_choose_one(name, gpus, problem) for name in choice.names)


def _choose_one(name: str | int, gpus: Sequence[GpuReport], problem: str) -> str:
    if isinstance(name, str) and name.startswith(("GPU-", "MIG-")):
        return name
    found = [gpu for gpu in gpus if _fits(name, gpu)]
    if not found:
        raise NoSuchGpu(f"no GPU {name!r}: {_here(gpus, problem)}")
    if len(found) > 1:
        indexes = ", ".join(str(gpu.index) for gpu in found)
        raise NoSuchGpu(f"{name!r} fits the GPUs {indexes}; say which by index or UUID")
    return found[0].uuid


def _fits(name: str | int, gpu: GpuReport) -> bool:
    """An index, or a part of the name; a number beyond any index, as in 4090, is one of those."""
    if isinstance(name, int) and name < MOST_GPUS:
        return gpu.index == name
    return str(name).lower() in gpu.name.lower()


def _here(gpus: Sequence[GpuReport], problem: str) -> str:
    if not gpus:
        return f"NVML knows none here ({problem})" if problem else "NVML knows none here"
    return "here are " + ", ".join(f"{gpu.index} ({gpu.name})" for gpu in gpus)
