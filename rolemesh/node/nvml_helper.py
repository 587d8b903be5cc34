"""Reads NVML and prints what it says, a JSON object a line: `python -I nvml_helper.py SECONDS`.

It is a process of its own, because a driver that hangs or crashes takes its caller with it.
Nothing of RoleMesh is imported, so that it starts quickly.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pynvml

MOST_PROCESSES = 8  # of a GPU; a report has no room for more
AT_ONCE = 1  # millisecond, the least that an event can be waited for

Question = Callable[[Any], Any]


def main(interval: float) -> None:
    """Print a sample at once and then each interval; ends with one line when NVML is not there."""
    try:
        cards = Cards()
        while True:
            print(json.dumps({"gpus": cards.sample()}), flush=True)
            time.sleep(interval)
            if cards.lost:  # NVML sees a card that is back only after it was opened anew
                cards.reopen()
    except pynvml.NVMLError as problem:
        print(json.dumps({"error": str(problem)}), flush=True)


class Cards:
    """All GPUs that NVML knows; `lost` tells whether one fell off the bus."""

    def __init__(self) -> None:
        pynvml.nvmlInit()
        self.lost = False
        self._names: dict[int, dict[str, Any]] = {}
        self._errors = Xids()

    def reopen(self) -> None:
        pynvml.nvmlShutdown()
        pynvml.nvmlInit()
        self._errors = Xids()

    def sample(self) -> list[dict[str, Any]]:
        self._errors.listen()
        read = [self._read(index) for index in range(pynvml.nvmlDeviceGetCount())]
        self.lost = any(gpu.get("lost") for gpu in read)
        return read

    def _read(self, index: int) -> dict[str, Any]:
        """One GPU; a lost one keeps the name under which it was known."""
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            self._names[index] = _identity(index, handle)
            return {**self._names[index], **_readings(handle), **self._errors.of(handle)}
        except pynvml.NVMLError as problem:
            known = self._names.get(index, {"index": index, "uuid": "", "name": ""})
            return {**known, "reason": str(problem), "lost": _means_lost(problem)}


def _means_lost(problem: pynvml.NVMLError) -> bool:
    return problem.value in (pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED)


class Xids:
    """The driver's error messages, from now on; a driver that tells none is left alone."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._listening: set[str] = set()
        self._events: Any = None
        with suppress(pynvml.NVMLError):
            self._events = pynvml.nvmlEventSetCreate()

    def listen(self) -> None:
        """Take in what came since the last time."""
        if self._events is None or not self._listening:
            return
        with suppress(pynvml.NVMLError):  # a timeout: there is nothing new
            while True:
                event = pynvml.nvmlEventSetWait_v2(self._events, AT_ONCE)
                self._last[pynvml.nvmlDeviceGetUUID(event.device)] = event.eventData

    def of(self, handle: Any) -> dict[str, Any]:
        with suppress(pynvml.NVMLError):
            uuid = pynvml.nvmlDeviceGetUUID(handle)
            if self._events is not None and uuid not in self._listening:
                kind = pynvml.nvmlEventTypeXidCriticalError
                pynvml.nvmlDeviceRegisterEvents(handle, kind, self._events)
                self._listening.add(uuid)
            return {"xid": self._last.get(uuid)}
        return {}


def _identity(index: int, handle: Any) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
    }


def _readings(handle: Any) -> dict[str, Any]:
    """What the hardware tells; where it is silent, the reason is in `silent`.

    Raises NVMLError when the card is lost.
    """
    told: dict[str, Any] = {}
    silent: dict[str, str] = {}
    for fields, question in QUESTIONS.items():
        try:
            told |= zip(fields.split(), question(handle), strict=True)
        except pynvml.NVMLError as problem:
            if _means_lost(problem):
                raise
            silent |= dict.fromkeys(fields.split(), str(problem))
    return {**told, "silent": silent}


def _memory(handle: Any) -> Iterable[Any]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return memory.total, memory.used


def _utilization(handle: Any) -> Iterable[Any]:
    return (pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,)


def _thousandth(ask: Question) -> Question:
    return lambda handle: (ask(handle) / 1000,)


def _temperature(handle: Any) -> Iterable[Any]:
    return (pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),)


def _pci(handle: Any) -> Iterable[Any]:
    return (pynvml.nvmlDeviceGetPciInfo(handle).busId,)


def _driver(_: Any) -> Iterable[Any]:
    return (pynvml.nvmlSystemGetDriverVersion(),)


def _capability(handle: Any) -> Iterable[Any]:
    return ("{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle)),)


def _throttled(handle: Any) -> Iterable[Any]:
    reasons = pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    return ([word for bit, word in THROTTLES.items() if reasons & bit],)


def _ecc_errors(handle: Any) -> Iterable[Any]:
    kinds = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
    return (pynvml.nvmlDeviceGetTotalEccErrors(handle, *kinds),)


def _processes(handle: Any) -> Iterable[Any]:
    """Who holds memory, the most first; a process that computes and draws is one."""
    held: dict[int, int | None] = {}
    for ask in PROCESS_LISTS:
        with suppress(pynvml.NVMLError_NotSupported):
            held |= {each.pid: each.usedGpuMemory for each in ask(handle)}
    by_size = sorted(held.items(), key=lambda item: item[1] or 0, reverse=True)
    named = [{"pid": pid, "name": _name(pid), "memory": size} for pid, size in by_size]
    return (named[:MOST_PROCESSES],)


def _name(pid: int) -> str:
    """A process of another container has a number that is nobody's here, or somebody else's."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    return ""


PROCESS_LISTS: tuple[Question, ...] = (
    pynvml.nvmlDeviceGetGraphicsRunningProcesses,
    pynvml.nvmlDeviceGetComputeRunningProcesses,
)

THROTTLES: Mapping[int, str] = {
    pynvml.nvmlClocksThrottleReasonSwPowerCap: "power cap",
    pynvml.nvmlClocksThrottleReasonHwSlowdown: "hardware slowdown",
    pynvml.nvmlClocksThrottleReasonSwThermalSlowdown: "heat",
    pynvml.nvmlClocksThrottleReasonHwThermalSlowdown: "heat, by hardware",
    pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown: "power brake",
}

QUESTIONS: Mapping[str, Question] = {
    "pci": _pci,
    "driver": _driver,
    "compute_capability": _capability,
    "memory_total memory_used": _memory,
    "utilization": _utilization,
    "power": _thousandth(pynvml.nvmlDeviceGetPowerUsage),
    "power_limit": _thousandth(pynvml.nvmlDeviceGetEnforcedPowerLimit),
    "energy": _thousandth(pynvml.nvmlDeviceGetTotalEnergyConsumption),
    "temperature": _temperature,
    "throttled": _throttled,
    "ecc_errors": _ecc_errors,
    "processes": _processes,
}


if __name__ == "__main__":
    main(float(sys.argv[1]))
