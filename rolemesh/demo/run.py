"""The demo itself: start a gateway and a node agent, wait until all answers, show what passes."""

import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.task import deferLater
from twisted.web.client import Agent, ResponseFailed

from rolemesh.demo.foreground import Child, Foreground, run
from rolemesh.demo.household import ROLES, Household
from rolemesh.demo.lines import Narrator

LOADING_PATIENCE = 1800.0  # seconds; a big model on a slow disk takes many minutes
SMOKE_PATIENCE = 300.0
_LOOK, _REMIND = 0.2, 5.0  # seconds between looks, and between lines that say what is missing

# How a question fails, also one that is cancelled or takes too long.
_NO_ANSWER = (
    CancelledError,
    ConnectError,
    ConnectingCancelledError,
    DNSLookupError,
    ResponseFailed,
)


class Fell(Exception):
    """One of the programs ended, or did not become ready; the text says which."""


def perform(household: Household, once: bool) -> int:
    """Run the demo in the foreground until Ctrl-C, or until it has tried itself; its exit code."""
    narrator = Narrator(say)
    with tempfile.TemporaryDirectory(prefix="rolemesh-demo-") as folder:
        say(f"Writing models and configuration to {household.cache} and {folder}")
        configs = household.furnish(Path(folder))

        def main(reactor: Any, foreground: Foreground) -> Any:
            demo = Demo(reactor, foreground, household, narrator)
            return demo.play(*configs, Path(folder), once)

        return run(main, narrator)


def say(line: str) -> None:
    print(line, flush=True)


class Demo:
    """One performance; `play` is its course."""

    def __init__(
        self, reactor: Any, foreground: Foreground, household: Household, narrator: Narrator
    ) -> None:
        self._reactor = reactor
        self._foreground = foreground
        self._household = household
        self._narrator = narrator
        self._http = HTTPClient(Agent(reactor, connectTimeout=2))

    async def play(self, gateway: Path, node: Path, state: Path, once: bool) -> int:
        """From the first start to the last stop; 0, or 1 when something did not work."""
        try:
            await self._start(gateway, node, state)
            self._narrator.quiet = True
            say(_welcome(self._household.url))
            return await (self._try_itself() if once else self._watch())
        except CancelledError:
            return 0
        except Fell as reason:
            print(f"rolemesh demo: {reason}", file=sys.stderr)
            return 1
        finally:
            await self._leave()

    async def _start(self, gateway: Path, node: Path, state: Path) -> None:
        home = ("--state", str(state))
        listen = ("--listen", self._household.listen)
        say("Starting the gateway")
        self._foreground.start(
            "gateway", "rolemesh-gateway", "--config", str(gateway), *listen, *home
        )
        await self._none_missing(self._gateway_missing)
        say("Starting the node agent with two llama.cpp servers")
        self._foreground.start("node", "rolemesh-node", "--config", str(node), *home)
        await self._none_missing(self._roles_missing)

    async def _none_missing(self, look: Callable[[], Awaitable[list[str]]]) -> None:
        began = reminded = self._reactor.seconds()
        while missing := await look():
            self._must_stand()
            now = self._reactor.seconds()
            if now - began > LOADING_PATIENCE:
                raise Fell(f"{', '.join(missing)} did not become ready in {LOADING_PATIENCE:g} s")
            if now - reminded > _REMIND:
                reminded = now
                say(f"  waiting for {', '.join(missing)} ({now - began:.0f} s)")
            await deferLater(self._reactor, _LOOK)

    async def _gateway_missing(self) -> list[str]:
        return [] if await self._models() is not None else ["the gateway"]

    async def _roles_missing(self) -> list[str]:
        """The roles that no server answers yet."""
        models = await self._models() or []
        ready = {model["id"] for model in models if model["rolemesh"]["ready"]}
        return [role for role in ROLES if role not in ready]

    async def _models(self) -> list[Any] | None:
        """What the gateway lists, None while it does not answer."""
        try:
            answer = await self._http.get(f"{self._household.url}/v1/models", timeout=5)
            listed: list[Any] = (await answer.json())["data"]
        except _NO_ANSWER:
            return None
        return listed

    def _must_stand(self) -> None:
        """A question that is under way turns the order to leave into a missing answer."""
        if self._foreground.leaving:
            raise CancelledError
        if child := self._foreground.fallen():
            raise Fell(_end_of(child))

    async def _watch(self) -> int:
        raise Fell(_end_of(await self._foreground.first_to_end()))

    async def _try_itself(self) -> int:
        await self._smoke()
        answered = {await self._who_answers(role) for role in ROLES}
        say(f"{len(answered)} servers answered: {', '.join(sorted(answered))}")
        if len(answered) < 2:
            raise Fell("two servers were to answer")
        return 0

    async def _smoke(self) -> None:
        command = ("-m", "rolemesh.cli.main", "smoke", self._household.url)
        smoke = self._foreground.spawn("smoke", *command)
        try:
            await self._foreground.end_of(smoke, SMOKE_PATIENCE)
        finally:
            smoke.signal("KILL")
        if smoke.code != 0:
            raise Fell("the smoke test failed")

    async def _who_answers(self, role: str) -> str:
        question = {"model": role, "messages": [{"role": "user", "content": "hello"}]}
        url = f"{self._household.url}/v1/chat/completions"
        try:
            answer = await self._http.post(url, json={**question, "max_tokens": 8}, timeout=60)
            await answer.content()
        except _NO_ANSWER:
            self._must_stand()
            raise Fell(f"{role} did not answer") from None
        return "/".join(answer.headers.getRawHeaders("x-rolemesh-backend", ["nobody"]))

    async def _leave(self) -> None:
        self._narrator.quiet = True
        say("Stopping the gateway, then the node agent and its servers")
        await self._foreground.stop()
        say("Stopped; nothing is left running")


def _end_of(child: Child) -> str:
    return f"the {child.name} ended with {child.code}; its lines above say why"


_WELCOME = """
Ready. Ask any of {roles}; each request shows up below. Ctrl-C stops all.

  base URL  {url}/v1   (any API key will do)

  {curl}

  {python}   # pip install openai
"""
_CURL = """\
curl {url}/v1/chat/completions -H 'content-type: application/json' -d '{{"model": "planner", \
"messages": [{{"role": "user", "content": "hello"}}]}}'"""
_PYTHON = """\
python3 -c 'from openai import OpenAI; print(OpenAI(base_url="{url}/v1", api_key="none")\
.chat.completions.create(model="coder", messages=[{{"role": "user", "content": "hello"}}])\
.choices[0].message.content)'"""


def _welcome(url: str) -> str:
    curl, python = _CURL.format(url=url), _PYTHON.format(url=url)
    return _WELCOME.format(url=url, roles=", ".join(ROLES), curl=curl, python=python)
