"""Requests over four backends of which one at a time fails: what do clients see of it?"""

import asyncio
import json
import random
import time
from argparse import ArgumentParser
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any

from attrs import define, field
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, OpenAIError

from tests.bench.doubles import Double, close_all
from tests.bench.table import Promise, at_most, exactly, judge, none_of, percentile, show
from tests.doubles.model import says
from tests.real.harness import Program, Workshop, ask

BACKENDS, SLOTS, SPEED = 4, 8, 400.0  # words a second
AT_A_TIME = 16
WORDS = 12
# What is ordered of a double to make it fail in each way, and what makes it well again.
FAULTS = {
    "kill": ("kill", "listen"),
    "hang": ("behave hang!", "behave normal"),
    "reset": ("behave die-rst:4", "behave normal"),
    "slow": (f"speed 50 {SPEED / 20}", f"speed 0 {SPEED}"),
    "garbage": ("behave garbage!", "behave normal"),
    "503": ("behave busy-503!", "behave normal"),
}


@define
class Seen:
    """What the clients saw. `silent` counts answers taken for whole that were not, `early` cuts
    after the event that only names the assistant's role."""

    served: int = 0
    silent: int = 0
    early: int = 0
    cuts: Counter[str] = field(factory=Counter)
    before: Counter[str] = field(factory=Counter)
    faults: Counter[str] = field(factory=Counter)
    seconds: list[float] = field(factory=list)

    @property
    def failed(self) -> int:
        return self.before.total()


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two faults")
    parser.add_argument("--seed", type=int, default=1)


def run(requests: int, every: float, seed: int) -> int:
    argv = ("--slots", SLOTS, "--speed", SPEED, "--length", WORDS)
    doubles = [Double(*argv) for _ in range(BACKENDS)]
    workshop = Workshop()
    try:
        gateway = workshop.gateway(_config(doubles))
        gateway.program.until("all are ready", lambda: _ready(gateway.url) == BACKENDS)
        seen = asyncio.run(_storm(gateway.url, doubles, requests, every, random.Random(seed)))
        attempts = sum(double.seen()["calls"] for double in doubles)
        cuts = _cuts(gateway.program)
    finally:
        workshop.close()
        close_all(doubles)
    return _tell(seen, attempts, cuts)


def _config(doubles: Sequence[Double]) -> str:
    role = {"use": [double.url for double in doubles], "timeout": {"first_byte": "5s"}}
    return json.dumps({"roles": {"coder": role}})


def _ready(url: str) -> int:
    found: int = ask(f"{url}/ready").json()["roles"]["coder"]["ready"]
    return found


def _cuts(program: Program) -> int:
    """Streams that the gateway itself says it had to break off."""
    ends = [str(event.get("rolemesh.end", "")) for event in program.events()]
    return sum(end.startswith("cut") for end in ends)


async def _storm(
    url: str, doubles: Sequence[Double], requests: int, every: float, dice: random.Random
) -> Seen:
    seen, numbers = Seen(), iter(range(requests))
    faults = asyncio.create_task(_fail_in_turn(doubles, every, seen, dice))
    told = asyncio.create_task(_tell_progress(seen))
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        clients = (_client(client, numbers, seen, dice) for _ in range(AT_A_TIME))
        await asyncio.gather(*clients)
    for task in (faults, told):
        task.cancel()
    await asyncio.wait([faults, told])
    return seen


async def _fail_in_turn(
    doubles: Sequence[Double], every: float, seen: Seen, dice: random.Random
) -> None:
    for name in cycle(FAULTS):
        fault, cure = FAULTS[name]
        double = dice.choice(doubles)
        seen.faults[name] += 1
        double.order(fault)
        try:
            await asyncio.sleep(every)
        finally:
            double.order(cure)


async def _tell_progress(seen: Seen) -> None:
    while True:
        await asyncio.sleep(15)
        print(f"{seen.served} served, {seen.cuts.total()} cut, {seen.failed} failed", flush=True)


async def _client(client: AsyncOpenAI, numbers: Any, seen: Seen, dice: random.Random) -> None:
    for number in numbers:
        messages = [{"role": "user", "content": f"request {number}"}]
        began = time.monotonic()
        if dice.random() < 0.5:
            await _stream(client, messages, seen)
        else:
            await _whole(client, messages, seen)
        seen.seconds.append(time.monotonic() - began)


async def _whole(client: AsyncOpenAI, messages: Any, seen: Seen) -> None:
    try:
        answer = await client.chat.completions.create(model="coder", messages=messages)
    except OpenAIError as error:
        seen.before[_name(error)] += 1
    else:
        _count(seen, answer.choices[0].message.content, messages)


async def _stream(client: AsyncOpenAI, messages: Any, seen: Seen) -> None:
    text, begun = "", False
    try:
        answer = await client.chat.completions.create(model="coder", messages=messages, stream=True)
        async for chunk in answer:
            begun = True
            for choice in chunk.choices:
                text += choice.delta.content or ""
    except Exception as error:  # the SDK passes some of httpx's own on
        (seen.cuts if begun else seen.before)[_name(error)] += 1
        seen.early += begun and not text
    else:
        _count(seen, text, messages)


def _count(seen: Seen, text: str | None, messages: Any) -> None:
    seen.served += 1
    if text != says(messages, WORDS):
        seen.silent += 1


def _name(error: Exception) -> str:
    if isinstance(error, APIStatusError):
        body = error.body if isinstance(error.body, dict) else {}
        return f"{error.status_code} {body.get('code')}"
    if isinstance(error, APIConnectionError):
        return f"{type(error).__name__} ({type(error.__cause__).__name__})"
    return type(error).__name__


def _tell(seen: Seen, attempts: int, cuts: int) -> int:
    requests = seen.served + seen.cuts.total() + seen.failed
    rows = [
        ("requests", requests, ""),
        ("faults", seen.faults.total(), _said(seen.faults)),
        ("served whole", seen.served, ""),
        ("failed before the first token", seen.failed, _said(seen.before)),
        ("cut in the middle, seen by the SDK", seen.cuts.total(), _said(seen.cuts)),
        ("of these, before any text", seen.early, ""),
        ("cut in the middle, as the gateway tells", cuts, ""),
        ("taken for whole and was not", seen.silent, ""),
        ("upstream attempts", attempts, ""),
        ("p99 of a request, ms", f"{percentile(seen.seconds, 0.99) * 1000:.0f}", ""),
        ("longest request, ms", f"{max(seen.seconds) * 1000:.0f}", ""),
    ]
    show("faults", ("what", "count", "which"), rows)
    return judge(_promises(seen, requests, attempts, cuts))


def _promises(seen: Seen, requests: int, attempts: int, cuts: int) -> list[Promise]:
    return [
        none_of("client errors before the first token", seen.failed),
        none_of("broken answers that look whole", seen.silent),
        exactly("cuts that the SDK raised", seen.cuts.total(), cuts),
        at_most("upstream attempts / requests", attempts / requests, 1.2, "{:.3f}"),
    ]


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
