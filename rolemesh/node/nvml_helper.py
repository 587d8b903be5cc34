"""Reads NVML and prints what it says, a JSON object a line: `python -I nvml_helper.py SECONDS`.

It is a process of its own, because a driver that hangs or crashes takes its caller with it.
Nothing of RoleMesh is imported, so that it starts quickly.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import pynvml


def main(interval: float) -> None:
    """Print a sample at once and then each interval; ends with one line when NVML is not there."""
    try:
        pynvml.nvmlInit()
        names: dict[int, dict[str, Any]] = {}
        while True:
            count = pynvml.nvmlDeviceGetCount()
            print(json.dumps({"gpus": [_sample(i, names) for i in range(count)]}), flush=True)
            time.sleep(interval)
    except pynvml.NVMLError as problem:
        print(json.dumps({"error": str(problem)}), flush=True)


def _sample(index: int, names: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """One GPU; a lost one keeps the name under which it was known."""
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        names[index] = _identity(index, handle)
    except pynvml.NVMLError as problem:
        known = names.get(index, {"index": index, "uuid": "", "name": ""})
        return {**known, "reason": str(problem)}
    return {**names[index], **_readings(handle)}


def _identity(index: int, handle: Any) -> dict[str, Any]:
    return {
        "index": index,
        "uuid": pynvml.nvmlDeviceGetUUID(handle),
        "name": pynvml.nvmlDeviceGetName(handle),
    }


def _readings(handle: Any) -> dict[str, Any]:
    """What the hardware tells, null where it is silent."""
    memory = _ask(pynvml.nvmlDeviceGetMemoryInfo, handle)
    rates = _ask(pynvml.nvmlDeviceGetUtilizationRates, handle)
    milliwatts = _ask(pynvml.nvmlDeviceGetPowerUsage, handle)
    return {
        "memory_total": memory and memory.total,
        "memory_used": memory and memory.used,
        "utilization": rates and rates.gpu / 100,
        "power": None if milliwatts is None else milliwatts / 1000,
        "temperature": _ask(pynvml.nvmlDeviceGetTemperature, handle, pynvml.NVML_TEMPERATURE_GPU),
    }


def _ask(question: Callable[..., Any], *details: Any) -> Any:
    try:
        return question(*details)
    except pynvml.NVMLError:
        return None


if __name__ == "__main__":
    main(float(sys.argv[1]))
