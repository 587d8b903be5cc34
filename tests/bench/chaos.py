"""Random ends of agents and of their servers: what is left, what is there twice, how long it takes.

Each round ends the agent or one of its servers by a random signal, as an operator, a driver or the
kernel might. An ended agent is started again, as systemd does. When all servers are ready again,
every process that carries the agent's tag is looked at:

    orphans   does not descend from the agent
    doubles   is a second server of one entry
    zombies   has ended, and the agent has not noticed for a second

With `--keep` servers outlive their agents (`on_exit: keep`): what descends from a recorded one is
then no orphan, and one that is another process after its agent's end is `lost`.

The servers are small programs that fork a child into a session of its own.
"""

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
from attrs import define, field

from rolemesh.node.identity import Records, instance_of
from rolemesh.node.proc import VARIABLE
from tests.real.harness import TWISTD, free_port

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV)
SERVER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("small_server.py")))
DEADLINE = 90.0  # seconds for a recovery
MOST_ENDS = 4  # of one server under one agent: more would be a crash loop, which rests for a minute
PAUSE = 0.01


@define
class Outcome:
    """What the rounds showed; `recoveries` in seconds by what was ended."""

    rounds: int = 0
    orphans: int = 0
    doubles: int = 0
    zombies: int = 0
    left_by_stop: int = 0
    lost: int = 0
    recoveries: dict[str, list[float]] = field(factory=dict)

    @property
    def clean(self) -> bool:
        bad = self.orphans, self.doubles, self.zombies, self.left_by_stop, self.lost
        return not any(bad)

    def lines(self) -> Iterator[str]:
        yield f"rounds {self.rounds}"
        yield f"orphans {self.orphans}, doubles {self.doubles}, zombies {self.zombies}"
        yield f"left behind by an agent that ended in order: {self.left_by_stop}, lost {self.lost}"
        for what, times in sorted(self.recoveries.items()):
            spread = f"median {statistics.median(times):.2f} s, most {max(times):.2f} s"
            yield f"ready again after {what}: {spread} ({len(times)} times)"


class Gateway:
    """Hears what one agent after another reports, each at a URL of its own; nothing else."""

    def __init__(self) -> None:
        self.last: Mapping[str, Any] = {}
        self._agent = 0
        outer = self

        class Hears(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["content-length"])))
                if self.path.startswith(f"/{outer._agent}/"):  # not of one that has ended since
                    outer.last = told
                self._answer()

            def do_DELETE(self) -> None:
                self._answer()

            def _answer(self) -> None:
                answer = {"node": "box", "lease_s": 15, "heartbeat_s": 1}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps(answer).encode())

            def log_message(self, *_: object) -> None:
                """Nobody reads it."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Hears)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def another(self) -> str:
        """The URL for the next agent; nothing is known of it yet."""
        self._agent += 1
        self.last = {}
        return f"http://127.0.0.1:{self._server.server_port}/{self._agent}"

    def restarts(self) -> dict[str, int]:
        """How often each ready server was restarted."""
        ready = (b for b in self.last.get("backends", ()) if b.get("state", "ready") == "ready")
        return {backend["id"]: backend.get("restarts", 0) for backend in ready}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Box:
    """One machine: its state folder, its file, its agent."""

    def __init__(self, folder: Path, gateway: Gateway, entries: int, keep: bool = False) -> None:
        self.gateway = gateway
        self.keep = keep
        self.names = [f"s{number}" for number in range(entries)]
        self._folder = folder
        self._state = folder / "state"
        self._first = free_port()
        self.agent = self._start()
        self.ends: Counter[str] = Counter()

    def _write(self) -> None:
        (self._folder / "m.gguf").touch()
        settings = {
            "gateway": self.gateway.another(),
            "name": "box",
            "llama_server": list(SERVER),
            "ports": f"{self._first}-{self._first + 20 * len(self.names)}",
            "on_exit": "keep" if self.keep else "stop",
            "restart": {"first": "50ms", "longest": "200ms"},
            "run": [
                {"id": name, "model": name, "file": str(self._folder / "m.gguf")}
                for name in self.names
            ],
        }
        self._file = self._folder / "node.yaml"
        self._file.write_text(json.dumps(settings))
        self._file.chmod(0o600)

    def _start(self) -> "subprocess.Popen[bytes]":
        self._write()
        argv = [*TWISTD, "rolemesh-node", "--config", str(self._file), "--state", str(self._state)]
        with (self._folder / "agent.log").open("ab") as log:
            return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)

    def end(self) -> None:
        """Stop it for good; kept servers end with an agent that does not keep them."""
        if self.keep:
            self.keep = False
            self.agent.terminate()
            self.agent.wait(DEADLINE)
            self.agent = self._start()
            _until("the last agent", self.ready)
        self.agent.terminate()
        self.agent.wait(DEADLINE)

    def kept(self) -> dict[str, int]:
        """The recorded servers that live, when they are to outlive their agent."""
        found = Records(self._state / "servers").read() if self.keep else []
        return {each.backend: each.pid for each in found if each.alive()}

    def start_again(self) -> None:
        self.ends.clear()
        self.agent = self._start()

    def ours(self) -> list[psutil.Process]:
        """Every process that carries this box's tag."""
        tag = f"{instance_of(self._state)}:"
        return [each for each in psutil.process_iter() if _tag_of(each).startswith(tag)]

    def servers(self) -> dict[str, list[psutil.Process]]:
        """The servers by their names; what they forked is none."""
        found: dict[str, list[psutil.Process]] = {}
        ours = self.ours()
        pids = {each.pid for each in ours}
        for each in ours:
            with _unless_gone():
                if each.ppid() not in pids:
                    found.setdefault(_tag_of(each).rpartition(":")[2], []).append(each)
        return found

    def ready(self) -> bool:
        return len(self.gateway.restarts()) == len(self.names)


@contextmanager
def _unless_gone() -> Iterator[None]:
    try:
        yield
    except psutil.Error:
        return


def _tag_of(process: psutil.Process) -> str:
    try:
        return process.environ().get(VARIABLE, "")
    except (psutil.Error, OSError):
        return ""


def _until(what: str, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {DEADLINE:g} s: {what}")
        time.sleep(PAUSE)


def _end_agent(box: Box, number: signal.Signals, outcome: Outcome) -> None:
    before = box.kept()
    box.agent.send_signal(number)
    code = box.agent.wait(DEADLINE)
    if number == signal.SIGTERM:
        outcome.left_by_stop += (0 if box.keep else len(box.ours())) + (code != 0)
    box.start_again()
    _until("the servers of a new agent", box.ready)
    outcome.lost += len(before.items() - box.kept().items())


def _end_server(box: Box, name: str, number: signal.Signals) -> None:
    before = box.gateway.restarts()[name]
    box.ends[name] += 1
    for each in box.servers().get(name, ()):
        with _unless_gone():
            each.send_signal(number)
    _until(f"a new {name}", lambda: box.gateway.restarts().get(name, 0) > before)


def _look(box: Box, outcome: Outcome) -> None:
    """Count what should not be there."""
    family = set(box.kept().values())
    for pid in (box.agent.pid, *family):
        family |= {each.pid for each in psutil.Process(pid).children(recursive=True)}
    outcome.orphans += sum(each.pid not in family for each in box.ours())
    outcome.doubles += sum(len(found) - 1 for found in box.servers().values())
    outcome.zombies += len(_zombies(box)) and _still_zombies(box)


def _zombies(box: Box) -> set[int]:
    found = set()
    for each in psutil.Process(box.agent.pid).children():
        with _unless_gone():
            if each.status() == psutil.STATUS_ZOMBIE:
                found.add(each.pid)
    return found


def _still_zombies(box: Box) -> int:
    before = _zombies(box)
    time.sleep(1)
    return len(before & _zombies(box))


def _round(box: Box, dice: random.Random, outcome: Outcome) -> None:
    number = dice.choice(SIGNALS)
    name = dice.choice([*box.names, "agent", "agent"])
    agent = name == "agent" or box.ends[name] >= MOST_ENDS
    began = time.monotonic()
    if agent:
        _end_agent(box, number, outcome)
    else:
        _end_server(box, name, number)
    what = f"{number.name} to {'the agent' if agent else 'a server'}"
    outcome.recoveries.setdefault(what, []).append(time.monotonic() - began)
    outcome.rounds += 1
    _look(box, outcome)


def chaos(rounds: int, entries: int = 3, seed: int = 0, keep: bool = False) -> Outcome:
    """Play the rounds; at the end no process is left, or it is counted."""
    outcome, gateway, dice = Outcome(), Gateway(), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="rolemesh-chaos-") as folder:
        box = Box(Path(folder), gateway, entries, keep)
        try:
            _until("the first servers", box.ready)
            for _ in range(rounds):
                _round(box, dice, outcome)
            box.end()
            outcome.left_by_stop += len(box.ours())
        finally:
            _clean_up(box)
            gateway.close()
    return outcome


def _clean_up(box: Box) -> None:
    if box.agent.poll() is None:
        box.agent.kill()
        box.agent.wait(DEADLINE)
    for each in box.ours():
        with _unless_gone():
            each.kill()


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--entries", type=int, default=3, help="servers of the agent")
    parser.add_argument("--keep", action="store_true", help="servers outlive their agents")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4)))


def run(rounds: int, entries: int, seed: int, keep: bool) -> int:
    """Print what the rounds showed; 0 when nothing was left, double or forgotten."""
    print(f"seed {seed}", flush=True)
    outcome = chaos(rounds, entries, seed, keep)
    print("\n".join(outcome.lines()))
    return 0 if outcome.clean else 1


def main(arguments: Sequence[str]) -> int:
    """As `python -m tests.bench.chaos`."""
    parser = ArgumentParser("python -m tests.bench.chaos", description=__doc__)
    options(parser)
    return run(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
