"""Asks a llama-server whether it is ready, whether it is ours, and how busy it is."""

import json
import re
import secrets
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from rolemesh.config.node import Health
from rolemesh.core.vigil import LOOK_EVERY, Pulse
from rolemesh.node.calls import Answer, Caller
from rolemesh.node.means import Door, Facts, Stranger

LARGE = 1024 * 1024  # bytes; /props carries the model's chat template
_WAITING = re.compile(rb"^llamacpp:requests_deferred ([0-9]{1,6})(?:\.0*)?\s*$", re.MULTILINE)
FIRST_PAUSE = 0.1  # seconds between the first questions; doubles up to the configured interval


class Probe:
    """Asks one server, from its start to its end."""

    def __init__(self, caller: Caller, clock: IReactorTime, health: Health) -> None:
        self._caller = caller
        self._clock = clock
        self._health = health

    async def until_ready(self, door: Door, loading: Callable[[], None]) -> Facts:
        """Ask until it is ready; `loading` is called whenever it says that it loads.

        :raises Stranger: when another program answers.
        """
        pause = FIRST_PAUSE
        while True:
            answer = await self._ask(door, "/health")
            if answer is not None and answer.status == 503:
                loading()
            if answer is not None and answer.status == 200:
                facts = await self._identify(door)
                if facts is not None:
                    return facts
            await deferLater(self._clock, pause)
            pause = min(2 * pause, self._health.interval)

    async def watch_slots(self, door: Door, tell: Callable[[Pulse], None]) -> None:
        """Tell for ever what its slots do; asked more often, it would see late that clients leave.

        Silence is told as such: nobody may take the last answer for a new one.
        """
        while True:
            tell(await self._pulse(door))
            await deferLater(self._clock, max(LOOK_EVERY, self._health.interval))

    async def _pulse(self, door: Door) -> Pulse:
        answer = await self._ask(door, "/slots", door.key)
        if answer is None:
            return Pulse()
        slots = _json(answer)
        pulse = _pulse(slots)
        if not pulse.busy or pulse.busy < len(slots):
            return pulse
        return evolve(pulse, waiting=_waiting(await self._ask(door, "/metrics", door.key)))

    async def _identify(self, door: Door) -> Facts | None:
        """The facts; None when it stopped answering meanwhile.

        A wrong key comes first, so that a server without locks never sees the true one.
        """
        wrong = await self._ask(door, "/props", secrets.token_urlsafe(16))
        if wrong is None or wrong.status == 503:
            return None
        if wrong.status not in (401, 403):
            raise Stranger("it does not ask for the key that it was given")
        right = await self._ask(door, "/props", door.key)
        if right is None or right.status == 503:
            return None
        if right.status != 200:
            raise Stranger("it does not know its key")
        return _facts(right, door.alias)

    async def _ask(self, door: Door, path: str, key: str | None = None) -> Answer | None:
        try:
            return await self._caller.call("GET", door.url + path, bearer=key, limit=LARGE)
        except CancelledError:
            raise
        except Exception:  # refused, reset, late, garbled: it does not answer, and that is all
            return None


def _facts(answer: Answer, alias: str) -> Facts:
    props = _json(answer)
    if not isinstance(props, dict) or props.get("model_alias") != alias:
        raise Stranger("it serves another model")
    settings = props.get("default_generation_settings")
    context = settings.get("n_ctx") if isinstance(settings, dict) else None
    return Facts(
        _count(context), _count(props.get("total_slots")), str(props.get("build_info", ""))
    )


def _pulse(slots: Any) -> Pulse:
    if not isinstance(slots, list):
        return Pulse(answered=True)
    busy = [slot for slot in slots if isinstance(slot, dict) and slot.get("is_processing") is True]
    written = [_written(slot) for slot in busy]
    read = [(slot.get("id_task"), slot.get("n_prompt_tokens_processed")) for slot in busy]
    produced = tuple(map(str, zip(read, written, strict=True)))
    return Pulse(True, len(busy), produced, reading=not all(written))


def _waiting(metrics: Answer | None) -> int:
    """The requests that it keeps until a slot is free; none where a build does not tell."""
    found = _WAITING.search(metrics.body) if metrics is not None else None
    return int(found[1]) if found else 0


def _written(slot: dict[str, Any]) -> int:
    """The tokens that a slot has written; where a build does not tell, none."""
    next_token = slot.get("next_token")
    last = next_token[-1] if isinstance(next_token, list) and next_token else next_token
    return _count(last.get("n_decoded")) if isinstance(last, dict) else 0


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
