"""A gateway that is killed again and again while nodes register: is anything lost that it
acknowledged, and how long until it serves?"""

import json
import random
import signal
import threading
import time
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field

from tests.bench.table import at_most, judge, none_of, percentile, show
from tests.real.harness import DEADLINE, Server, Workshop, answers, ask

CONFIG = "roles: {planner: tiny}\ngateway: {drain: 1s}"
READY = 3.0  # seconds
GONE = None


class Well(BaseHTTPRequestHandler):
    """A backend that is always well."""

    def do_GET(self) -> None:
        body = b'{"status":"ok"}'
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Backend(ThreadingHTTPServer):
    """Says nothing of gateways that vanish in the middle of a check."""

    def handle_error(self, *_: object) -> None:
        """That is what this is about."""


@contextmanager
def well() -> Iterator[str]:
    """The URL of a backend that is always well."""
    server = Backend(("127.0.0.1", 0), Well)
    serving = threading.Thread(target=server.serve_forever, daemon=True)
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@define
class Truth:
    """What a gateway may say of one node: the last that it acknowledged, a number or that it is
    gone, or anything that was tried since without an answer."""

    acknowledged: int | None = GONE
    tried: list[int | None] = field(factory=list)

    def allows(self, found: int | None) -> bool:
        return found == self.acknowledged or found in self.tried


class Nodes:
    """Many nodes that register, change and leave, so many times a second, in a thread."""

    def __init__(self, url: str, backend: str, count: int, rate: float, dice: random.Random):
        self.truths = {f"n{number}": Truth() for number in range(count)}
        self.acknowledged = 0
        self.quiet = threading.Lock()  # held: nobody registers
        self.began = threading.Event()  # a registration is on its way
        self._url, self._backend, self._rate, self._dice = url, backend, rate, dice
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Nodes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(DEADLINE)

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(1 / self._rate):
            number += 1
            with self.quiet:
                self._speak(self._dice.choice(list(self.truths)), number)

    def _speak(self, node: str, number: int) -> None:
        leaves = node != "n0" and self._dice.random() < 0.2
        outcome = GONE if leaves else number
        truth = self.truths[node]
        truth.tried.append(outcome)
        self.began.set()
        try:
            answer = self._leave(node) if leaves else self._register(node, number)
        except OSError:
            return
        if answer == 200 or (leaves and answer == 410):
            truth.acknowledged, truth.tried = outcome, []
            self.acknowledged += 1

    def _register(self, node: str, number: int) -> int:
        backend = {"id": "gpu0", "base_url": self._backend, "model": "tiny", "state": "ready"}
        told = {"node": node, "instance": "one", "labels": {"number": str(number)}}
        return ask(f"{self._url}/v1/nodes/register", {**told, "backends": [backend]}).status

    def _leave(self, node: str) -> int:
        return ask(f"{self._url}/v1/nodes/{node}", method="DELETE").status

    def lost(self) -> list[str]:
        """What the gateway says that it may not say, with everybody quiet."""
        found = {
            node["node"]: int(node["labels"]["number"])
            for node in ask(f"{self._url}/v1/nodes").json()["data"]
        }
        wrong = []
        for node, truth in self.truths.items():
            if not truth.allows(found.get(node, GONE)):
                wrong.append(f"{node}: {found.get(node)}, acknowledged {truth.acknowledged}")
            truth.acknowledged, truth.tried = found.get(node, GONE), []
        return wrong


@define
class Findings:
    """What the kills showed; `ready` is in seconds from the start of a process, `cpu` is how many
    of them it worked, which a busy machine does not change."""

    kills: int = 0
    acknowledged: int = 0
    lost: list[str] = field(factory=list)
    ready: list[float] = field(factory=list)
    cpu: list[float] = field(factory=list)


def measure(kills: int, rate: float = 10.0, nodes: int = 20, seed: int = 1) -> Findings:
    """Kill a gateway so often, at random moments, half of them within a registration."""
    dice, found = random.Random(seed), Findings()
    with well() as backend, closing(Workshop()) as workshop:
        gateway = workshop.gateway(CONFIG)
        with Nodes(gateway.url, backend, nodes, rate, dice) as mesh:
            gateway.program.until("a role is ready", lambda: answers(f"{gateway.url}/ready"))
            for _ in range(kills):
                gateway = _again(workshop, gateway, mesh, found, dice)
            found.acknowledged = mesh.acknowledged
    return found


def _again(
    workshop: Workshop, gateway: Server, mesh: Nodes, found: Findings, dice: random.Random
) -> Server:
    """Kill, start, wait until a role is ready, and compare."""
    time.sleep(dice.uniform(0.2, 1.5))
    if dice.random() < 0.5:
        mesh.began.clear()
        mesh.began.wait(DEADLINE)
        time.sleep(dice.uniform(0.0, 0.02))
    gateway.program.signal(signal.SIGKILL)
    gateway.program.wait()
    with mesh.quiet:
        begun = time.monotonic()
        gateway = workshop.gateway(CONFIG, int(gateway.url.rpartition(":")[2]))
        gateway.program.until("a role is ready", lambda: answers(f"{gateway.url}/ready"))
        found.ready.append(time.monotonic() - begun)
        found.cpu.append(_cpu(gateway.program.pid))
        found.lost += mesh.lost()
    found.kills += 1
    return gateway


def _cpu(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def options(parser: ArgumentParser) -> None:
    """The arguments of this benchmark."""
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=float, default=10.0, help="registrations a second")
    parser.add_argument("--nodes", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)


def run(**chosen: Any) -> int:
    """Print what was lost, and how soon the gateway was ready."""
    found = measure(**chosen)
    times = [f"{percentile(found.ready, share):.2f}" for share in (0.5, 0.95, 1.0)]
    head = ("killed", "acknowledged", "lost", "ready p50 s", "p95 s", "max s", "CPU p50 s")
    cpu = f"{percentile(found.cpu, 0.5):.2f}"
    row = (found.kills, found.acknowledged, len(found.lost), *times, cpu)
    show(f"SIGKILL of a gateway under registrations, {json.dumps(chosen)}", head, [row])
    for line in found.lost:
        print(line)
    return judge(
        [
            none_of("acknowledged registrations lost", len(found.lost)),
            at_most("seconds until a role is ready", max(found.ready, default=0.0), READY),
        ]
    )
