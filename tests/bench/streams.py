"""Many streams at once: nothing lost or reordered, little added; and clients that do not read."""

import asyncio
import json
import socket
import time
from argparse import ArgumentParser
from collections.abc import Mapping
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import psutil
from attrs import define, field

from tests.bench.doubles import Double
from tests.bench.table import Promise, at_most, judge, none_of, percentile, show
from tests.doubles.model import render, words
from tests.real.harness import Program, Server, Workshop, ask, eventually

STREAMS, SPEED = 200, 20  # tokens a second
READERS, DEAF = 50, 100
FLOOD = 4000  # tokens to each of the deaf: a megabyte, many times what the kernel keeps for them
ROOM = 50.0  # MB
SLOWER = 1.20
CHAT = "/v1/chat/completions"


@define
class Stream:
    """One stream: its words, and of each how late it came after the double had said it.

    The double tells in `timings` how long it has been speaking; the earliest word stands for no
    delay. `first` is the time to the first word.
    """

    number: int
    words: list[str] = field(factory=list)
    late: list[float] = field(factory=list)
    asked: float = 0.0
    first: float = 0.0
    ended: float = 0.0
    done: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"stream {self.number}"}]

    def take(self, line: bytes, now: float) -> None:
        if line == b"data: [DONE]":
            self.done, self.ended = True, now
        elif line.startswith(b"data: {"):
            self._take_event(json.loads(line[6:]), now)

    def _take_event(self, event: dict[str, Any], now: float) -> None:
        for choice in event.get("choices", ()):
            if choice["delta"].get("content"):
                self.first = self.first or now - self.asked
                self.words.append(choice["delta"]["content"])
                self.late.append(now - event["timings"]["predicted_ms"] / 1000)

    def jitter(self) -> list[float]:
        least = min(self.late, default=0.0)
        return [each - least for each in self.late]

    def broken(self, count: int) -> bool:
        """Whether an event was lost, reordered or made up."""
        return not self.done or self.words != list(islice(words(render(self.messages)), count))


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="that a stream lasts")
    parser.add_argument("--streams", type=int, default=STREAMS)


def run(seconds: float, streams: int) -> int:
    workshop = Workshop()
    slots = max(streams, READERS + DEAF) + 8
    double = Double("--slots", slots, "--context", 1_000_000, "--speed", SPEED)
    fast = Double("--slots", slots, "--context", 1_000_000)
    try:
        roles = {"talk": double.url, "flood": fast.url}
        gateway = workshop.gateway(json.dumps({"roles": roles}))
        gateway.program.until("all are ready", lambda: _ready(gateway.url))
        count = int(seconds * SPEED)
        promises = _many(gateway, double, streams, count)
        promises += _unread(gateway, fast, min(count, 20 * SPEED))
    finally:
        workshop.close()
        for each in (double, fast):
            each.close()
    return judge(promises)


def _ready(url: str) -> bool:
    roles = ask(f"{url}/ready").json()["roles"]
    return all(role["ready"] == role["total"] for role in roles.values())


def _many(gateway: Server, double: Double, streams: int, count: int) -> list[Promise]:
    before = _megabytes(gateway.program)
    direct = asyncio.run(_read_all(double.url, streams, count))
    through = asyncio.run(_read_all(gateway.url, streams, count))
    grown = _megabytes(gateway.program) - before
    rows = [_row("straight to the double", direct), _row("through the gateway", through)]
    head = ("", "events", "first word p50, ms", "late p50, ms", "late p99, ms")
    show(f"streams: {streams} at {SPEED} tokens/s, {count} tokens each", head, rows)
    print(f"the gateway grew by {grown:.1f} MB, {grown / streams * 1000:.0f} kB a stream\n")
    broken = sum(stream.broken(count) for stream in through)
    return [none_of("streams with an event lost or reordered", broken)]


def _row(name: str, streams: list[Stream]) -> tuple[object, ...]:
    late = [each for stream in streams for each in stream.jitter()]
    firsts = [stream.first for stream in streams]
    figures = (percentile(firsts, 0.5), percentile(late, 0.5), percentile(late, 0.99))
    return (name, len(late), *(f"{each * 1000:.1f}" for each in figures))


def _unread(gateway: Server, flood: Double, count: int) -> list[Promise]:
    alone = asyncio.run(_read_all(gateway.url, READERS, count))
    before = _megabytes(gateway.program)
    deaf = [_deaf_client(gateway.url) for _ in range(DEAF)]
    try:
        _until_idle(flood)
        beside, most = asyncio.run(_watched(gateway, count))
    finally:
        for client in deaf:
            client.close()
    slower = _lasted(beside) / _lasted(alone)
    rows = [_row("alone", alone), _row(f"beside {DEAF} that do not read", beside)]
    head = (f"{READERS} clients that read", "events", "first word p50, ms", "late p50", "late p99")
    show("streams: clients that do not read", head, rows)
    broken = sum(stream.broken(count) for stream in beside)
    return [
        none_of("streams broken beside them", broken),
        at_most("MB that they cost", most - before, ROOM, "{:.1f}"),
        at_most("how long the others took x alone", slower, SLOWER),
    ]


def _until_idle(double: Double) -> None:
    """Wait until it has said what it can, so that it takes no CPU from those who are measured."""
    process = psutil.Process(double.pid)
    eventually("the deaf are served", lambda: process.cpu_percent(0.5) < 10, 50.0)


async def _watched(gateway: Server, count: int) -> tuple[list[Stream], float]:
    """The streams of those that read, and the most memory that the gateway had meanwhile."""
    reading = asyncio.create_task(_read_all(gateway.url, READERS, count))
    most = 0.0
    while not reading.done():
        most = max(most, _megabytes(gateway.program))
        await asyncio.wait([reading], timeout=0.5)
    return reading.result(), most


def _lasted(streams: list[Stream]) -> float:
    return percentile([each.ended - each.asked for each in streams], 0.95)


def _deaf_client(url: str) -> socket.socket:
    """A client that asks for as much as it can get, and reads nothing of it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", urlsplit(url).port))
    messages = [{"role": "user", "content": "flood"}]
    asked = {"model": "flood", "messages": messages, "max_tokens": FLOOD, "ignore_eos": True}
    client.sendall(_request({**asked, "stream": True}))
    return client


async def _read_all(url: str, streams: int, count: int) -> list[Stream]:
    reading = [_read(url, Stream(number), count) for number in range(streams)]
    return list(await asyncio.gather(*reading))


async def _read(url: str, stream: Stream, count: int) -> Stream:
    await asyncio.sleep(stream.number % 20 / SPEED / 20)  # so that they do not speak in chorus
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    stream.asked = time.monotonic()
    asked = {"model": "talk", "messages": stream.messages, "max_tokens": count}
    more = {"ignore_eos": True, "timings_per_token": True, "stream": True}
    writer.write(_request({**asked, **more}))
    while line := await reader.readline():
        stream.take(line.strip(), time.monotonic())
        if stream.done:
            break
    writer.close()
    return stream


def _request(body: Mapping[str, Any]) -> bytes:
    encoded = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


def _megabytes(program: Program) -> float:
    return float(psutil.Process(program.pid).memory_info().rss) / 1e6
