"""Clients that leave in every phase: is everything free a second later, on real servers?"""

import asyncio
import json
import random
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import psutil
from attrs import define, field

from tests.bench.table import judge, none_of, show
from tests.real.harness import Server, Workshop, ask

BACKENDS, SLOTS = 2, 2
BATCH = "64"  # prompt tokens between two looks of llama-server at its clients: some 50 ms here
AT_A_TIME = 12  # three times the slots, so that many leave the queue
STAYS = (0.0, 0.02, 0.5, 2.5)  # seconds; each client draws one, and how much of it
LEFT_FOR = 1.0  # seconds after which all must be free
CHAT = "/v1/chat/completions"
PROMPTS = {"short": 1, "long": 400}


@define
class Seen:
    """In what phase clients left, and what was found a second after each wave of them."""

    phases: Counter[str] = field(factory=Counter)
    looks: int = 0
    connections: int = 0
    in_flight: int = 0
    busy: int = 0
    unserved: int = 0


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--leavers", type=int, default=5000)
    parser.add_argument("--waves", type=int, default=10, help="looks, spread over the leavers")
    parser.add_argument("--seed", type=int, default=1)


def run(leavers: int, waves: int, seed: int) -> int:
    workshop, seen = Workshop(), Seen()
    try:
        model = workshop.model(layers=8, embd=256, heads=4, ctx=131072)
        extra = ("-c", "16384", "-b", BATCH, "-ub", BATCH)
        servers = [workshop.llama_server(model, *extra) for _ in range(BACKENDS)]
        gateway = workshop.gateway(json.dumps({"roles": {"coder": "tiny"}}))
        for number, server in enumerate(servers, 1):
            _register(gateway, f"box{number}", server)
        gateway.program.until("all are ready", lambda: _ready(gateway.url) == BACKENDS)
        asyncio.run(_waves(gateway, servers, seen, leavers, waves, random.Random(seed)))
    finally:
        workshop.close()
    return _tell(seen)


def _register(gateway: Server, name: str, server: Server) -> None:
    node = {"node": name, "base_url": server.url, "roles": ["coder"]}
    answer = ask(f"{gateway.url}/v1/nodes/register", node)
    assert answer.status == 200, answer.body


def _ready(url: str) -> int:
    found: int = ask(f"{url}/ready").json()["roles"]["coder"]["ready"]
    return found


async def _waves(
    gateway: Server,
    servers: Sequence[Server],
    seen: Seen,
    leavers: int,
    waves: int,
    dice: random.Random,
) -> None:
    for wave in range(waves):
        numbers = iter(range(leavers // waves))
        clients = (_client(gateway.url, numbers, seen, dice) for _ in range(AT_A_TIME))
        await asyncio.gather(*clients)
        await asyncio.sleep(LEFT_FOR)
        _look(gateway, servers, seen)
        seen.unserved += ask(gateway.url + CHAT, _body(False, "short", 4)).status != 200
        told = f"{seen.connections} connections, {seen.in_flight} in flight, {seen.busy} busy"
        print(f"wave {wave + 1}/{waves}: {told}", flush=True)


async def _client(url: str, numbers: Any, seen: Seen, dice: random.Random) -> None:
    port = urlsplit(url).port
    for _ in numbers:
        stream, prompt = dice.random() < 0.5, dice.choice(list(PROMPTS))
        stay = dice.uniform(0.0, dice.choice(STAYS))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_request(_body(stream, prompt, 500)))
        received = await _read_for(reader, stay)
        writer.transport.abort()
        seen.phases[_phase(stream, prompt, stay, received)] += 1


async def _read_for(reader: asyncio.StreamReader, seconds: float) -> bytes:
    received = b""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while piece := await reader.read(65536):
                received += piece
    return received


def _phase(stream: bool, prompt: str, stay: float, received: bytes) -> str:
    how = "streaming" if stream else "not streaming"
    if received:
        return f"{how}, in the answer"
    return f"{how}, {prompt} prompt, {'at once' if stay < 0.02 else 'while waiting'}"


def _body(stream: bool, prompt: str, tokens: int) -> dict[str, Any]:
    text = " ".join(["the hello world"] * PROMPTS[prompt]) + f" {random.random()}"
    asked = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return {"model": "coder", "stream": stream, **asked}


def _request(body: dict[str, Any]) -> bytes:
    encoded = json.dumps(body).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(encoded)}\r\n\r\n".encode() + encoded


def _look(gateway: Server, servers: Sequence[Server], seen: Seen) -> None:
    """Count what is not free; the gateway's own short health checks have ended by the next look."""
    ports = {urlsplit(server.url).port for server in servers}
    seen.looks += 1
    seen.connections += min(_connections(gateway, ports) for _ in range(3))
    nodes = ask(f"{gateway.url}/v1/nodes").json()
    seen.in_flight += _sum_of(nodes, "in_flight")
    for server in servers:
        for slot in ask(f"{server.url}/slots").json():
            if slot["is_processing"]:
                seen.busy += 1
                print(f"still busy: {_told(slot)}", flush=True)


def _told(slot: dict[str, Any]) -> str:
    """How far a busy slot is with what."""
    next_token = slot.get("next_token") or [{}]
    decoded = next_token[0].get("n_decoded") if isinstance(next_token, list) else None
    read = f"{slot.get('n_prompt_tokens_processed')} of {slot.get('n_prompt_tokens')} tokens read"
    return f"task {slot.get('id_task')}, {read}, {decoded} written"


def _connections(gateway: Server, ports: set[int | None]) -> int:
    process = psutil.Process(gateway.program.pid)
    ends = [each for each in process.net_connections("tcp") if each.raddr]
    return sum(each.raddr.port in ports and each.status == "ESTABLISHED" for each in ends)


def _sum_of(found: Any, name: str) -> int:
    """All figures of that name in a JSON document."""
    if isinstance(found, list):
        return sum(_sum_of(each, name) for each in found)
    if isinstance(found, dict):
        return sum(v if k == name else _sum_of(v, name) for k, v in found.items())
    return 0


def _tell(seen: Seen) -> int:
    rows = [(phase, count) for phase, count in sorted(seen.phases.items())]
    show(f"leavers, over {BACKENDS} llama.cpp servers", ("left", "clients"), rows)
    print(f"{LEFT_FOR:g} s after each of {seen.looks} waves, in all:")
    return judge(
        [
            none_of("upstream connections", seen.connections),
            none_of("requests in flight", seen.in_flight),
            none_of("busy slots", seen.busy),
            none_of("requests not served afterwards", seen.unserved),
        ]
    )
