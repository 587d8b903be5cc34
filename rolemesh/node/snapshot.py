"""What the node is at this moment, in the words of the wire."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

import rolemesh
from rolemesh.core.endings import Ending, said, without_places
from rolemesh.core.model import BackendState as State
from rolemesh.core.report import (
    Agent,
    BackendReport,
    GpuProcess,
    GpuReport,
    LastExit,
    Registration,
)
from rolemesh.node.hostmeter import HostMeter
from rolemesh.node.proc import process
from rolemesh.node.supervisor import Server

TOLD_LINES = 20  # of a log, at an exit
ALL_LINES = 16 * 1024  # characters, of all servers: a gateway reads 64 KiB of a report
LONGEST_LINE = 1000  # characters
LONGEST_BATCH = 900.0  # seconds of a prompt's part in which a server may answer nothing
LONGEST_TEXT = 256  # characters, as `core.report.Text` allows


class Snapshots:
    """Makes snapshots of one run of the agent.

    `generation` grows from each to the next. It begins with the time, so that an agent that was
    killed and runs again is believed at once, although the lease of the one before still runs.
    """

    def __init__(
        self,
        node: str,
        instance: str,
        labels: Mapping[str, str],
        meter: HostMeter,
        drained: Callable[[str], str | None] = lambda _: None,
        generation: int = 0,
    ) -> None:
        self.node = node
        self._instance = instance
        self._labels = dict(labels)
        self._meter = meter
        self._drained = drained
        self._generation = generation

    def take(self, servers: Iterable[Server], gpus: Sequence[GpuReport]) -> Registration:
        """All servers that have an address, in whatever state, and the last GPU sample."""
        self._generation += 1
        servers = tuple(servers)
        room = ALL_LINES // max(1, sum(server.last_ending is not None for server in servers))
        backends = (
            backend_report(server, self._drained(server.run.id), room) for server in servers
        )
        own = {server.pid: server.run.id for server in servers if server.pid}
        return Registration(
            node=self.node,
            instance=self._instance,
            generation=self._generation,
            labels=self._labels,
            backends=tuple(backend for backend in backends if backend is not None),
            gpus=tuple(_with_owners(gpu, own) for gpu in gpus),
            host=self._meter.read(),
            agent=Agent(version=rolemesh.__version__),
        )


def backend_report(
    server: Server, drained: str | None = None, room: int = ALL_LINES
) -> BackendReport | None:
    """One server, why it takes nothing new, and at most `room` characters of its log; None while
    it never had a place to answer."""
    run, door, facts = server.run, server.door, server.talk.facts
    if door is None:
        return None
    return BackendReport(
        id=run.id,
        base_url=door.url,
        key=door.key,
        model=run.model,
        roles=run.roles,
        slots=facts.slots or run.slots,
        context=facts.context or run.context,
        build=facts.build[:LONGEST_TEXT],
        state=server.state,
        slots_busy=server.judge.pulse.busy,
        waiting=server.judge.pulse.waiting,
        slots_age=round(server.judge.silent, 3),
        still=_still(server),
        restarts=server.restarts,
        progress=_progress(server),
        draining=drained,
        note=server.note[:LONGEST_TEXT],
        last_exit=_last_exit(server.last_ending, server.retry_in, room),
    )


def _with_owners(gpu: GpuReport, own: Mapping[int, str]) -> GpuReport:
    """With the names of our own servers at the processes that are theirs."""
    if not gpu.processes:
        return gpu
    return replace(gpu, processes=tuple(_with_owner(each, own) for each in gpu.processes))


def _with_owner(held: GpuProcess, own: Mapping[int, str]) -> GpuProcess:
    found = process(held.pid)
    backend = own.get(held.pid) or (own.get(found.session) if found else None)
    return replace(held, backend=backend) if backend else held


def _still(server: Server) -> float | None:
    """Told where only the processor can be at work: a GPU that hangs looks busy."""
    judge = server.judge
    if server.state not in (State.READY, State.SUSPECT) or judge.signs.utilization is not None:
        return None
    return round(max(judge.still, judge.silent - LONGEST_BATCH), 3)


def _progress(server: Server) -> str:
    match server.state:
        case State.STARTING | State.LOADING:
            return f"loading for {server.age:.0f} s, {server.judge.signs.read / 1e9:.1f} GB read"
        case State.SUSPECT:
            return f"no progress for {server.judge.still:.0f} s"
        case _:
            return ""


def _last_exit(ending: Ending | None, retry_in: float | None, room: int) -> LastExit | None:
    if ending is None:
        return None
    lines = [without_places(line)[:LONGEST_LINE] for line in ending.lines[-TOLD_LINES:]]
    while sum(map(len, lines)) > room:
        del lines[0]
    return LastExit(
        reason=without_places(str(ending))[:LONGEST_TEXT],
        said=without_places(said(ending))[:LONGEST_TEXT],
        lines=tuple(lines),
        retry_in=retry_in,
    )
