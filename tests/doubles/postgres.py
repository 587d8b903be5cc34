"""A real PostgreSQL of one's own: in a temporary folder, on a free port of 127.0.0.1."""

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.real.harness import free_port

PATIENCE = 60  # seconds
PLACES = "/usr/lib/postgresql/*/bin"  # where Debian keeps what is not on the path


def tool(name: str) -> str | None:
    """Where a program of PostgreSQL is; None when it is not installed."""
    kept = sorted(Path("/").glob(f"{PLACES.removeprefix('/')}/{name}"))
    return shutil.which(name) or (str(kept[-1]) if kept else None)


def present() -> bool:
    """Whether a server can be made here."""
    return tool("initdb") is not None and tool("pg_ctl") is not None


class Postgres:
    """One server, made when this is made. It does not run as root, which PostgreSQL refuses."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rolemesh-postgres-"))
        self.port = free_port()
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, pwd.getpwnam(self._user).pw_uid, -1)
        self._data = self.folder / "data"
        no_sync = ("--no-sync", "--no-locale", "--encoding=UTF8", "--auth=trust")
        self._run("initdb", "--username=rolemesh", *no_sync, "-D", str(self._data))

    @property
    def url(self) -> str:
        return f"postgresql://rolemesh@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Let it run; returns when it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self.folder} -F"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self._data), "-l", log, "-o", options)

    def stop(self) -> None:
        """Break off its connections and end it."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self._data))

    def remove(self) -> None:
        """End it, and leave nothing behind."""
        if (self._data / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, sql: str) -> None:
        """Run a statement as another program."""
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(sql.encode())

    def _run(self, name: str, *arguments: str) -> None:
        program = tool(name)
        assert program is not None, f"{name} is not installed"
        ended = subprocess.run(
            [program, *arguments],
            cwd=self.folder,
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=(self.folder / f"{name}.out").open("wb"),
            stderr=subprocess.STDOUT,
            timeout=PATIENCE,
            check=False,
        )
        told = (self.folder / f"{name}.out").read_text()
        assert ended.returncode == 0, f"{name}: {told}"
