"""A llama.cpp server is killed in the middle of a stream: who still gets the whole text?"""

import json
import random
import signal
import threading
from argparse import ArgumentParser
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field
from openai import OpenAI

from tests.bench.table import exactly, judge, show
from tests.real.harness import Server, Workshop, ask

QUESTION: Any = [{"role": "user", "content": "hello world"}]
TOKENS = 120
ROLES = {"rescued": "continue", "honest": "off"}


@define
class Seen:
    """What became of the streams of one role whose server was killed."""

    same: int = 0
    other: int = 0
    raised: Counter[str] = field(factory=Counter)


class Servers:
    """Two real servers of one model; the one that is killed comes back on its port."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._model: Path = workshop.slow_model()
        self._servers = {f"{number}": workshop.llama_server(self._model) for number in (1, 2)}

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._servers.values()]

    def kill(self, backend: str) -> None:
        """SIGKILL the server that a gateway calls `role-NUMBER`."""
        self._servers[backend[-1]].program.signal(signal.SIGKILL)

    def revive(self, backend: str) -> None:
        """Start it anew once it is dead."""
        dead = self._servers[backend[-1]]
        dead.program.wait()
        self._workshop.programs.remove(dead.program)
        port = urlsplit(dead.url).port
        self._servers[backend[-1]] = self._workshop.llama_server(self._model, port=port)


def options(parser: ArgumentParser) -> None:
    parser.add_argument("--times", type=int, default=20, help="of each role")
    parser.add_argument("--seed", type=int, default=1)


def run(times: int, seed: int) -> int:
    workshop, dice = Workshop(), random.Random(seed)
    seen = {role: Seen() for role in ROLES}
    try:
        servers = Servers(workshop)
        gateway = workshop.gateway(_config(servers))
        client = OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)
        _until_ready(gateway)
        undisturbed = _undisturbed(client)
        for number in range(times):
            for role in ROLES:
                after = dice.randint(1, TOKENS - 10)
                told = _once(client, servers, role, after, undisturbed, seen[role])
                _until_ready(gateway)
                print(
                    f"{number + 1}/{times} {role}, killed after {after} tokens: {told}", flush=True
                )
    finally:
        workshop.close()
    return _tell(seen, times)


def _config(servers: Servers) -> str:
    use = [{"url": url, "model": "tiny"} for url in servers.urls]
    return json.dumps(
        {"roles": {role: {"use": use, "rescue": rescue} for role, rescue in ROLES.items()}}
    )


def _until_ready(gateway: Server) -> None:
    gateway.program.until("both are ready", lambda: _ready(gateway.url))


def _ready(url: str) -> bool:
    return all(role["ready"] == 2 for role in ask(f"{url}/ready").json()["roles"].values())


def _asked(client: OpenAI, role: str) -> Any:
    return client.chat.completions.with_raw_response.create(
        model=role, messages=QUESTION, max_tokens=TOKENS, temperature=0, stream=True
    )


def _undisturbed(client: OpenAI) -> str:
    return "".join(_text(chunk) for chunk in _asked(client, "honest").parse())


def _once(
    client: OpenAI, servers: Servers, role: str, after: int, undisturbed: str, seen: Seen
) -> str:
    """One stream whose server is killed after so many tokens."""
    answer = _asked(client, role)
    backend: str = answer.headers["x-rolemesh-backend"]
    text, count = "", 0
    reviving = threading.Thread(target=servers.revive, args=(backend,))
    try:
        for chunk in answer.parse():
            text += _text(chunk)
            count += 1
            if count == after:
                servers.kill(backend)
                reviving.start()
    except Exception as error:  # the SDK passes some of httpx's own on
        seen.raised[type(error).__name__] += 1
        told = f"{type(error).__name__} after {count} chunks: {error}"
    else:
        told = _compare(text, undisturbed, seen)
    reviving.join()
    return told


def _compare(text: str, undisturbed: str, seen: Seen) -> str:
    if text == undisturbed:
        seen.same += 1
        return "the very text"
    seen.other += 1
    return f"another text, {len(text)} instead of {len(undisturbed)} characters"


def _text(chunk: Any) -> str:
    return "".join(choice.delta.content or "" for choice in chunk.choices)


def _tell(seen: dict[str, Seen], times: int) -> int:
    rows = [
        (f"rescue: {ROLES[role]}", each.same, each.other, each.raised.total(), _said(each.raised))
        for role, each in seen.items()
    ]
    head = ("", "the very text", "another text", "an exception", "which")
    show(f"rescue: {times} servers killed a role, each in the middle of a stream", head, rows)
    return judge(
        [
            exactly("whole texts with rescue", seen["rescued"].same, times),
            exactly("exceptions without", seen["honest"].raised.total(), times),
        ]
    )


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common())
