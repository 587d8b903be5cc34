"""Records by which an agent knows the servers of the agent that ran before it here."""

import hashlib
import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from rolemesh.node.proc import Process, boot_id, process


class Identity(Struct, frozen=True):
    """One server of ours. `started` and `boot` tell its pid from any other use of that number;
    `wish` is a hash of all that its entry of the file asked for."""

    backend: str
    pid: int
    started: int
    boot: str
    exe: str
    argv_sha256: str
    port: int
    gpus: tuple[str, ...]
    instance: str
    host: str = ""
    wish: str = ""

    def alive(self) -> Process | None:
        """The process itself, None when it is gone, whoever has its pid now."""
        now = process(self.pid)
        if now is None or now.ended or self.boot != boot_id() or now.started != self.started:
            return None
        return now


def fingerprint(argv: Sequence[str]) -> str:
    """A command line's hash: a record must not tell what its arguments may hide."""
    return hashlib.sha256("\0".join(argv).encode()).hexdigest()


class Records:
    """The records in a folder, a file for each backend. All of it waits for the disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, identity: Identity) -> None:
        """Have it on the disk when this returns.

        :raises OSError: when the folder cannot be written.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        file = self._file(identity.backend)
        fresh = file.with_suffix(".new")
        with fresh.open("wb") as output:
            output.write(msgspec.json.encode(identity))
            output.flush()
            os.fsync(output.fileno())
        fresh.replace(file)
        _settle(self._folder)

    def forget(self, backend: str) -> None:
        """The server is gone."""
        with suppress(OSError):
            self._file(backend).unlink()

    def read(self) -> list[Identity]:
        """All that can be read; a file that was cut is none."""
        found = []
        for file in sorted(self._folder.glob("*.json")):
            with suppress(OSError, msgspec.MsgspecError):
                found.append(msgspec.json.decode(file.read_bytes(), type=Identity))
        return found

    def prepare(self) -> Path:
        """The folder, when it takes what is written.

        :raises OSError: when it does not.
        """
        self._folder.mkdir(mode=0o700, exist_ok=True)
        probe = self._folder / ".probe"
        try:
            with probe.open("wb") as output:
                output.write(bytes(4096))
                output.flush()
                os.fsync(output.fileno())
        finally:
            probe.unlink(missing_ok=True)
        return self._folder

    def output_of(self, backend: str) -> Path:
        """Where a server writes that outlives us."""
        return self._folder / f"{backend}.log"

    def _file(self, backend: str) -> Path:
        return self._folder / f"{backend}.json"


def _settle(folder: Path) -> None:
    """The name in the folder survives a power cut as the file does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def instance_of(state: Path) -> str:
    """A word that only this state folder has, the same at each start.

    Where it cannot be kept, it is a fresh one, and survivors are known by their records alone.
    """
    file = state / "instance"
    with suppress(OSError):
        kept = file.read_text().strip()
        if kept:
            return kept
    made = secrets.token_hex(8)
    with suppress(OSError):
        file.write_text(f"{made}\n")
    return made


def living(identities: Iterable[Identity]) -> list[Process]:
    """Those of the recorded processes that still run."""
    return [found for each in identities if (found := each.alive()) is not None]
