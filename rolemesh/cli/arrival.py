"""The node agent in the foreground, from its first start until the gateway calls it ready."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from rolemesh.cli.init import say
from rolemesh.cli.joining import Desk
from rolemesh.cli.shown import refuse
from rolemesh.demo.foreground import Foreground, run
from rolemesh.demo.lines import Narrator

LOADING_PATIENCE = 1800.0  # seconds; a big model on a slow disk takes many minutes
_LOOK = 0.5  # seconds between two questions
_STATES = {"unknown": "up, and not checked by the gateway yet"}


def watch_arrival(desk: Desk, token: str, config: Path, state: str | None, once: bool) -> int:
    """Run the agent until Ctrl-C, or with `once` until it is in; its exit code."""
    home = ("--state", state) if state else ()
    narrator = Narrator(say)
    narrator.quiet = True

    async def main(reactor: Any, foreground: Foreground) -> int:
        foreground.start("node", "rolemesh-node", "--config", str(config), *home)
        try:
            arrived = await Arrival(reactor, foreground, desk, token).watch()
            if once or not arrived:
                return 0 if arrived else 1
            say("Ctrl-C stops it")
            child = await foreground.first_to_end()
            return child.code if child.code and child.code > 0 else 1
        except CancelledError:
            return 0
        finally:
            await foreground.stop()

    return run(main, narrator)


class Arrival:
    """One node on its way in; `watch` is its course."""

    def __init__(self, reactor: Any, foreground: Foreground, desk: Desk, token: str) -> None:
        self._reactor = reactor
        self._foreground = foreground
        self._desk = desk
        self._token = token
        self._told: dict[str, str] = {}

    async def watch(self) -> bool:
        """Tell what changes until all is ready; False when it cannot become so."""
        end = self._reactor.seconds() + LOADING_PATIENCE
        while self._reactor.seconds() < end:
            if child := self._foreground.fallen():
                refuse("join", f"the node agent ended with {child.code}; its lines say why")
                return False
            story = await self._ask()
            if story is not None and self._tell(story):
                return True
            await deferLater(self._reactor, _LOOK)
        late = f"not ready after {LOADING_PATIENCE / 60:.0f} minutes"
        refuse("join", f"{late}; rolemesh node status says more")
        return False

    async def _ask(self) -> Any | None:
        pool = self._reactor.getThreadPool()
        found = await deferToThreadPool(self._reactor, pool, self._desk.story, self._token)
        if self._foreground.leaving:  # the answer has eaten the cancellation
            raise CancelledError
        return found

    def _tell(self, story: Mapping[str, Any]) -> bool:
        """Say what is new; True when all servers are ready."""
        backends = story["backends"]
        for each in backends:
            self._tell_one(each)
        if not backends or not all(each["ready"] for each in backends):
            return False
        for line in summary(story):
            say(line)
        return True

    def _tell_one(self, backend: Mapping[str, Any]) -> None:
        state = "ready" if backend["ready"] else _STATES.get(backend["state"], backend["state"])
        ending = backend["last_exit"] or {}
        words = [state, backend["note"], ending.get("said", "") if not backend["ready"] else ""]
        line = ": ".join(word for word in words if word)
        if self._told.get(backend["id"]) != line:
            self._told[backend["id"]] = line
            say(f"  {backend['id']} ({backend['model']}): {line}")


def summary(story: Mapping[str, Any]) -> list[str]:
    """The last word on a node whose servers are all ready."""
    node, roles = story["node"], story["roles"]
    if not roles:
        models = ", ".join(sorted({str(each["model"]) for each in story["backends"]}))
        return [
            f"{node} is in, but no role has a use for {models}: list one in the gateway's file"
            " (roles:), or announce one that the invite allows in this one (roles: [NAME])"
        ]
    parts = (f"{name} ready {role['ready']}/{role['total']}" for name, role in roles.items())
    return [f"{node} is in: {', '.join(parts)}"]
