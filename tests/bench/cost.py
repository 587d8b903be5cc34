"""What a request and an event cost the gateway's process, beside bare proxies, in one run."""

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from argparse import ArgumentParser
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import psutil
from attrs import frozen

from tests.bench.nginx import EVENTS, PAUSE, Nginx, missing
from tests.bench.table import Promise, at_most, judge, none_of, show
from tests.real.harness import Program, Workshop, answers, ask, free_port

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rolemesh-bench"
PEER_PACKAGES = ("fastapi", "uvicorn", "httpx")
SETTLE = 0.5  # seconds in which a proxy notices that wrk has gone, which is part of the cost
CONNECTIONS = {"request": 32, "event": 100, "assembled": 100}
STREAMED = ("event", "assembled")
# Against what, how much of it is allowed, and how much is aimed at.
LIMITS = {
    "request": (("klein", 1.5, None), ("fastapi", 0.5, 0.35)),
    "event": (("klein", 1.5, None), ("fastapi", 0.35, 0.25)),
}


@frozen
class Contender:
    """One server under measurement for one kind of load; `model` is what it is asked for."""

    name: str
    kind: str
    program: Program
    url: str
    model: str

    def body(self) -> str:
        """The request's body."""
        said = "You are a careful engineer. " * 8
        messages = [{"role": "system", "content": said}, {"role": "user", "content": "Go on."}]
        wanted = {"model": self.model, "messages": messages, "max_tokens": EVENTS}
        return json.dumps({**wanted, "stream": self.kind == "event"})


@frozen
class Sample:
    """CPU seconds spent on so many units."""

    seconds: float
    units: float
    failed: int

    @property
    def micros(self) -> float:
        return self.seconds / self.units * 1e6 if self.units else float("inf")


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--rounds", type=int, default=3, help="the medians of so many are told")
    parser.add_argument("--seconds", type=float, default=6.0, help="of load a measurement")


def run(rounds: int, seconds: float) -> int:
    lacking = missing() + ([] if shutil.which("wrk") else ["wrk"])
    if lacking:
        print(f"cost needs the Debian packages {' '.join(lacking)}: apt-get install them")
        return 2
    workshop = Workshop()
    try:
        contenders = list(_contenders(workshop))
        samples = _measure(contenders, rounds, seconds)
    finally:
        workshop.close()
    return _tell(samples)


def _measure(
    contenders: Sequence[Contender], rounds: int, seconds: float
) -> Mapping[tuple[str, str], list[Sample]]:
    samples: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for contender in contenders:
        _load(contender, 1.0, 1.0)  # to be warm
    per_stream = {each: _bytes_of(each) for each in contenders if each.kind == "event"}
    for number in range(rounds):
        for each in contenders:
            sample = _load(each, seconds, per_stream.get(each, 1.0))
            samples[each.kind, each.name].append(sample)
            figure = f"{each.kind} {each.name}: {sample.micros:.0f} µs x {sample.units:.0f}"
            print(f"round {number + 1}/{rounds}  {figure}", flush=True)
    return samples


def _contenders(workshop: Workshop) -> Iterator[Contender]:
    nginx = Nginx(workshop)
    targets = {"request": nginx.whole, "event": nginx.stream, "assembled": nginx.llama}
    gateway = workshop.gateway(json.dumps(_config(targets)))
    gateway.program.until("all roles are ready", lambda: _all_ready(gateway.url))
    python = peer_environment() / "bin" / "python"
    for kind, (upstream, _) in targets.items():
        yield Contender("rolemesh", kind, gateway.program, gateway.url, kind)
        if kind == "assembled":
            continue
        klein = [sys.executable, "-m", "tests.bench.peers.klein_proxy"]
        fastapi = [str(python), str(HERE / "peers" / "fastapi_proxy.py")]
        for name, argv in (("klein", klein), ("fastapi", fastapi)):
            port = free_port()
            url = f"http://127.0.0.1:{port}"
            program = workshop.start(name, [*argv, str(port), upstream])
            program.until(f"{name} answers", lambda url=url: answers(f"{url}/health"))  # type: ignore[misc]
            yield Contender(name, kind, program, url, kind)


def _config(targets: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    return {"roles": {kind: {"use": list(urls)} for kind, urls in targets.items()}}


def _all_ready(url: str) -> bool:
    roles = ask(f"{url}/ready").json()["roles"].values()
    return all(role["ready"] == role["total"] for role in roles)


def peer_environment() -> Path:
    """The virtual environment with what the peers need, made when it is not there yet."""
    environment = CACHE / "peers"
    ready = environment / "ready"
    if not ready.exists():
        print(f"making an environment for {', '.join(PEER_PACKAGES)} in {environment}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(environment)], check=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q"]
        subprocess.run([*pip, "--disable-pip-version-check", *PEER_PACKAGES], check=True)
        ready.touch()
    return environment


def _load(contender: Contender, seconds: float, per_unit: float) -> Sample:
    process = psutil.Process(contender.program.pid)
    before = _spent(process)
    told = (
        _wrk_whole(contender, seconds)
        if contender.kind == "assembled"
        else _wrk(contender, seconds)
    )
    time.sleep(SETTLE)
    spent = _spent(process) - before
    units = told["bytes"] / per_unit * EVENTS if contender.kind == "event" else told["requests"]
    return Sample(spent, units, told["failed"])


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _wrk_whole(contender: Contender, seconds: float) -> dict[str, int]:
    """Load that asks for no more answers than can be whole in this time, as half ones cost too."""
    lasts = EVENTS * PAUSE * 1.25
    rounds = max(1, int(seconds / lasts))
    most = {"BENCH_MOST": str(rounds * CONNECTIONS[contender.kind])}
    return _wrk(contender, math.ceil(rounds * lasts + 1), **most)


def _wrk(contender: Contender, seconds: float, **more: str) -> dict[str, int]:
    connections = CONNECTIONS[contender.kind]
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "--timeout", "30s"]
    argv += ["-s", str(HERE / "post.lua"), f"{contender.url}/v1/chat/completions"]
    environment = {**os.environ, "BENCH_BODY": contender.body(), **more}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return told


def _bytes_of(contender: Contender) -> float:
    """How many bytes one whole stream has on the wire, its head included."""
    address, body = urlsplit(contender.url), contender.body().encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    received = b""
    with socket.create_connection(("127.0.0.1", address.port or 80), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        while not received.endswith(b"0\r\n\r\n"):
            received += connection.recv(65536)
    return float(len(received))


def _tell(samples: Mapping[tuple[str, str], list[Sample]]) -> int:
    cost = {key: median(each.micros for each in found) for key, found in samples.items()}
    mine = {kind: cost[kind, "rolemesh"] for kind in CONNECTIONS}
    rows = [
        _row("a JSON answer passed through", "request", cost),
        _row(f"an event of {EVENTS}, its share of the request included", "event", cost),
        (f"a JSON answer put together of {EVENTS} events", f"{mine['assembled']:.0f}", *"----"),
    ]
    head = ("CPU of the whole process, µs", "rolemesh", "klein", "fastapi", "x klein", "x fastapi")
    show("cost", head, rows)
    failed = sum(each.failed for found in samples.values() for each in found)
    return judge([*_promises(cost), none_of("requests that failed", failed)])


def _row(what: str, kind: str, cost: Mapping[tuple[str, str], float]) -> tuple[object, ...]:
    found = [cost[kind, name] for name in ("rolemesh", "klein", "fastapi")]
    return (what, *(f"{each:.0f}" for each in found), *(f"{found[0] / x:.2f}" for x in found[1:]))


def _promises(cost: Mapping[tuple[str, str], float]) -> Iterator[Promise]:
    for kind, limits in LIMITS.items():
        for peer, limit, aim in limits:
            ratio = cost[kind, "rolemesh"] / cost[kind, peer]
            aimed = f", aim {aim}" if aim is not None else ""
            yield at_most(f"CPU a {kind} x bare {peer}{aimed}", ratio, limit)
