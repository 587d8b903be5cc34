"""How many prompt tokens each policy makes the backends read, beside a placement that is fixed."""

import asyncio
import json
import random
import time
from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import define, field, frozen
from openai import AsyncOpenAI

from tests.bench.doubles import Double, close_all
from tests.bench.table import at_most, judge, percentile, show
from tests.doubles.model import WORDS
from tests.real.harness import Server, Workshop, ask

BACKENDS, SLOTS, CONVERSATIONS = 3, 2, 6
POLICIES = ("affinity", "least-loaded", "round-robin")
LIMIT = 1.05  # of what the fixed placement reads
SLOWER = 4  # times; the last of the doubles
DELAY_LIMIT = 1.10
# Tokens a second of the doubles; their prompts take some tenths of a second, as on a GPU.
READS, WRITES = 4000.0, 80.0
PAUSE = 0.1  # seconds, at most, between an answer and the next question


@frozen
class Trace:
    """Conversations that grow; pairs share a system prompt. Sizes are in words."""

    turns: int
    system: int = 300
    question: int = 40
    answer: int = 32

    def system_prompt(self, conversation: int) -> str:
        return _words(random.Random(f"system {conversation // 2}"), self.system)

    def ask(self, conversation: int, turn: int) -> str:
        return _words(random.Random(f"{conversation} {turn}"), self.question)


@define
class Seen:
    """What a run of the trace cost: tokens read and found in caches, and times to first tokens."""

    read: int = 0
    cached: int = 0
    first_tokens: list[float] = field(factory=list)

    @property
    def p95(self) -> float:
        return percentile(self.first_tokens, 0.95)


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--turns", type=int, default=18)
    parser.add_argument("--rounds", type=int, default=3, help="of the case with a slow backend")
    parser.add_argument("--seed", type=int, default=1)


def run(turns: int, rounds: int, seed: int) -> int:
    trace = Trace(turns)
    real = {"fixed": _fixed(trace, seed)}
    real.update({policy: _routed(trace, policy, seed) for policy in POLICIES})
    fixed = real["fixed"].read
    rows = [
        (policy, seen.read, seen.cached, f"{seen.read / fixed:.2f}")
        for policy, seen in real.items()
    ]
    about = f"{BACKENDS} llama.cpp servers x {SLOTS} slots, {CONVERSATIONS} x {turns} turns"
    show(f"affinity: {about}", ("placement", "tokens read", "cached", "x fixed"), rows)
    slow = _slow_cases(trace, rounds, seed)
    head = ("policy", "p95 to first token, ms", "median, ms", "tokens read")
    slow_rows = [
        (name, _ms(each.p95), _ms(_median(each)), each.read) for name, each in slow.items()
    ]
    show(f"affinity: doubles, one of {BACKENDS} is {SLOWER} times slower", head, slow_rows)
    ratio = slow["affinity"].p95 / slow["least-loaded"].p95
    return judge(
        [
            at_most("tokens read by affinity x fixed", real["affinity"].read / fixed, LIMIT),
            at_most("p95 to first token, affinity x least-loaded", ratio, DELAY_LIMIT),
        ]
    )


def _fixed(trace: Trace, seed: int) -> Seen:
    """Each pair of conversations has a server for itself, asked without a gateway."""
    workshop = Workshop()
    try:
        servers = _servers(workshop)
        homes = [servers[number // SLOTS].url for number in range(CONVERSATIONS)]
        return asyncio.run(_play(trace, homes, seed))
    finally:
        workshop.close()


def _routed(trace: Trace, policy: str, seed: int) -> Seen:
    workshop = Workshop()
    try:
        urls = [server.url for server in _servers(workshop)]
        gateway = _gateway(workshop, urls, policy)
        return asyncio.run(_play(trace, [gateway.url] * CONVERSATIONS, seed))
    finally:
        workshop.close()


def _servers(workshop: Workshop) -> list[Server]:
    model = workshop.model(ctx=16384)
    context = ("-c", str(16384 * SLOTS), "--parallel", str(SLOTS))
    return [workshop.llama_server(model, *context) for _ in range(BACKENDS)]


def _gateway(workshop: Workshop, urls: Sequence[str], policy: str) -> Server:
    roles = {"tiny": {"use": list(urls), "policy": policy}}
    gateway = workshop.gateway(json.dumps({"roles": roles}))
    gateway.program.until("all are ready", lambda: _ready(gateway.url) == len(urls))
    return gateway


def _ready(url: str) -> int:
    found: int = ask(f"{url}/ready").json()["roles"]["tiny"]["ready"]
    return found


def _slow_cases(trace: Trace, rounds: int, seed: int) -> Mapping[str, Seen]:
    """Rounds of both policies in turn, so that both meet the same machine."""
    found = {policy: Seen() for policy in ("affinity", "least-loaded")}
    for number in range(rounds):
        for policy, seen in found.items():
            one = _slow_case(trace, policy, seed + number)
            seen.read += one.read
            seen.cached += one.cached
            seen.first_tokens += one.first_tokens
    return found


def _slow_case(trace: Trace, policy: str, seed: int) -> Seen:
    workshop = Workshop()
    doubles = [_double(1.0) for _ in range(BACKENDS - 1)] + [_double(1 / SLOWER)]
    try:
        gateway = _gateway(workshop, [double.url for double in doubles], policy)
        return asyncio.run(_play(trace, [gateway.url] * CONVERSATIONS, seed))
    finally:
        workshop.close()
        close_all(doubles)


def _double(pace: float) -> Double:
    speeds = ("--prompt-speed", READS * pace, "--speed", WRITES * pace)
    return Double("--slots", SLOTS, "--context", 16384, *speeds)


async def _play(trace: Trace, urls: Sequence[str], seed: int) -> Seen:
    """All conversations side by side, each to one URL; seeded pauses mix their turns."""
    seen = Seen()
    talks = (
        _converse(trace, n, url, random.Random(seed * 100 + n), seen) for n, url in enumerate(urls)
    )
    await asyncio.gather(*talks)
    return seen


async def _converse(trace: Trace, number: int, url: str, dice: random.Random, seen: Seen) -> None:
    messages: list[Any] = [{"role": "system", "content": trace.system_prompt(number)}]
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=120) as client:
        for turn in range(trace.turns):
            await asyncio.sleep(dice.uniform(0, PAUSE))
            messages.append({"role": "user", "content": trace.ask(number, turn)})
            said = await _turn(client, messages, trace.answer, seen)
            messages.append({"role": "assistant", "content": said})


async def _turn(client: AsyncOpenAI, messages: list[Any], words: int, seen: Seen) -> str:
    began, first, text = time.monotonic(), 0.0, ""
    stream = await client.chat.completions.create(
        model="tiny", messages=messages, max_tokens=words, temperature=0, stream=True
    )
    async for chunk in stream:
        timings = (chunk.model_extra or {}).get("timings")
        if timings is not None:
            seen.read += timings["prompt_n"]
            seen.cached += timings["cache_n"]
        for choice in chunk.choices:
            if choice.delta.content:
                first = first or time.monotonic() - began
                text += choice.delta.content
    seen.first_tokens.append(first)
    return text


def _words(dice: random.Random, count: int) -> str:
    return " ".join(dice.choices(WORDS, k=count))


def _median(seen: Seen) -> float:
    return percentile(seen.first_tokens, 0.5)


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f}"
