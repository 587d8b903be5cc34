"""With `on_exit: keep` servers go on when the agent ends, and the next agent adopts them."""

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from rolemesh.config.node import Run
from rolemesh.node import proc
from rolemesh.node.adopted import Adopted
from rolemesh.node.aside import Aside
from rolemesh.node.command import KEY_VARIABLE, command_line, secrets_of
from rolemesh.node.identity import Identity, Records, fingerprint
from rolemesh.node.logfile import LogFile, again, fresh
from rolemesh.node.logs import LineCutter
from rolemesh.node.means import Door, Taken
from rolemesh.node.process import Exit, Output

DISK = 2.0  # seconds that the disk and /proc may take


@frozen
class _Found:
    """A process that can be adopted, as its environment and its file tell of it."""

    handle: int
    key: str
    age: float
    descriptor: int | None
    tail: list[bytes]


class Keeping:
    """The servers that outlive agents with this state folder.

    `waiting` are those of an earlier agent that nobody has taken over yet, by backend.
    """

    _log = Logger()

    def __init__(self, reactor: Any, records: Records, aside: Aside) -> None:
        self.waiting: dict[str, Identity] = {}
        self._reactor = reactor
        self._records = records
        self._aside = aside
        self._reading = Aside(reactor)  # a log's disk must hold up no record
        self._outliving: set[str] = set()
        self._recorded: set[str] = set()

    def keeps(self, backend: str) -> bool:
        """Whether its server can be left running: the next agent would know it."""
        return backend in self._outliving & self._recorded

    async def output(self, run: Run) -> Output:
        """A file for a new server's output.

        :raises OSError: when the state folder takes nothing, so that it cannot be kept.
        :raises TimeoutError: when the folder hangs.
        """
        self._outliving.discard(run.id)
        opening = self._aside.do(self._open, run.id)
        descriptor = await opening.addTimeout(DISK, self._reactor)
        self._outliving.add(run.id)
        return LogFile(descriptor, self._reading, self._reactor)

    def _open(self, backend: str) -> int:
        self._records.prepare()
        return fresh(self._records.output_of(backend))

    def recorded(self, backend: str) -> None:
        """Its record is on the disk."""
        self._recorded.add(backend)

    def forget(self, backend: str) -> None:
        """Its process is gone."""
        self._outliving.discard(backend)
        self._recorded.discard(backend)

    async def adopt(
        self, run: Run, host: str, tag: str, cutter: LineCutter, exited: Callable[[Exit], None]
    ) -> Taken | None:
        """Take over the server that an earlier agent left for this entry; None without one.

        One that serves at another address than ours now is none.
        """
        record = self.waiting.get(run.id)
        if record is None:
            return None
        try:
            looking = self._aside.do(self._look, record, host, tag)
            found = await looking.addTimeout(DISK, self._reactor)
        except CancelledError:
            raise
        except Exception as problem:
            self._log.warn("{backend} is not adopted: {why}", backend=run.id, why=repr(problem))
            found = None
        del self.waiting[run.id]
        return None if found is None else self._taken(run, record, found, cutter, exited)

    def _look(self, record: Identity, host: str, tag: str) -> _Found | None:
        process = record.alive()
        if process is None or record.host != host or not proc.carries(process, tag):
            return None
        key, handle = proc.variable(process, KEY_VARIABLE), proc.opened(process)
        if key is None or handle is None:
            return None
        try:
            descriptor, tail = again(self._records.output_of(record.backend))
        except OSError:
            descriptor, tail = None, []
        return _Found(handle, key, proc.age(process), descriptor, tail)

    def _taken(
        self,
        run: Run,
        record: Identity,
        found: _Found,
        cutter: LineCutter,
        exited: Callable[[Exit], None],
    ) -> Taken:
        output = None
        if found.descriptor is not None:
            output = LogFile(found.descriptor, self._reading, self._reactor)
        process = Adopted(self._reactor, record.pid, found.handle, output, cutter, exited)
        door = Door(record.host, record.port, run.model, found.key)
        secrets = secrets_of(run, found.key)
        self._outliving.add(run.id)
        return Taken(door, process, found.age, record.gpus, secrets, found.tail)


def wish(run: Run) -> str:
    """A hash of all that an entry asks for; the address and the port are not its own."""
    gpu = [str(name) for name in run.gpu.names] + [str(run.gpu.all), str(run.gpu.none)]
    env = [f"{name}={value}" for name, value in sorted(run.env.items())]
    return fingerprint([*command_line(run, "", 0), "", *gpu, "", *env])


def adoptable(records: Mapping[str, Identity], runs: Mapping[str, Run]) -> dict[str, Identity]:
    """The recorded servers that still run, and whose entries are as they were."""
    return {
        backend: record
        for backend, record in records.items()
        if backend in runs and record.wish == wish(runs[backend]) and record.alive()
    }
