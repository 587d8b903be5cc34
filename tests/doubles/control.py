"""Orders to a double that runs as a program: lines on its standard input."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from twisted.protocols.basic import LineOnlyReceiver

from tests.doubles.slots import Speed

if TYPE_CHECKING:
    from tests.doubles.fakellama import Fakellama


class Control(LineOnlyReceiver):
    """Orders from the parent process, a line each; its end is ours."""

    delimiter = b"\n"

    def __init__(self, fake: "Fakellama", reactor: Any) -> None:
        self._fake = fake
        self._reactor = reactor

    def lineReceived(self, line: bytes) -> None:
        verb, _, rest = line.decode().strip().partition(" ")
        ORDERS[verb](self._fake, rest)

    def connectionLost(self, _: object = None) -> None:
        if self._reactor.running:
            self._reactor.stop()


def _set_speed(fake: "Fakellama", rest: str) -> None:
    prompt, decode = (float(figure) for figure in rest.split())
    fake.slots.speed = Speed(prompt, decode)


def _print_calls(fake: "Fakellama", _: str) -> None:
    seen = {
        "calls": len(fake.work),
        "outcomes": [call.outcome for call in fake.work],
        "most_open": fake.most_open,
        "open": len(fake.running),
        "busy": fake.slots.busy,
    }
    print(msgspec.json.encode(seen).decode(), flush=True)


ORDERS: Mapping[str, Callable[["Fakellama", str], object]] = {
    "behave": lambda fake, script: fake.behave(script),
    "refuse": lambda fake, _: fake.refuse(),
    "listen": lambda fake, _: fake.listen(),
    "kill": lambda fake, _: fake.kill(),
    "speed": _set_speed,
    "calls": _print_calls,
}
