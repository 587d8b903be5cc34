"""The machine's own load: processors, memory, runnable tasks."""

import psutil
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.report import HostReport

LEAST = 1.0  # seconds between two readings: the load of less is chance


class HostMeter:
    """Reads what the kernel keeps in memory; nothing here waits for a disk."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._read_at = clock.seconds()
        self._last: HostReport | None = None
        psutil.cpu_percent()  # the first reading only begins to count

    def read(self) -> HostReport:
        """The last reading, or a new one where that is old."""
        now = self._clock.seconds()
        if self._last is None or now - self._read_at >= LEAST:
            self._last, self._read_at = self._measure(now - self._read_at), now
        return self._last

    def _measure(self, elapsed: float) -> HostReport:
        memory = psutil.virtual_memory()
        return HostReport(
            cpus=psutil.cpu_count(),
            cpu=psutil.cpu_percent() / 100 if elapsed >= LEAST else None,
            memory_total=memory.total,
            memory_available=memory.available,
            load=psutil.getloadavg(),
        )
