"""A llama-server double, in-process or as a program: true by default, false in every known way.

As a program it prints its port. With `--control` it obeys lines on standard input, whose end is
its own: `behave SCRIPT`, `refuse`, `listen`, `kill`, `speed PROMPT DECODE`, and `calls`, which
prints one JSON line.
"""

from argparse import ArgumentParser, Namespace
from collections import deque
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.protocol import Factory
from twisted.internet.stdio import StandardIO
from twisted.internet.task import deferLater

from tests.doubles.alarms import Alarms
from tests.doubles.api import answer
from tests.doubles.behaviours import CANNED, SPOILT, Act, Player, read_script
from tests.doubles.control import Control
from tests.doubles.reply import Call, Connection, Reply
from tests.doubles.slots import Slots, Speed
from tests.doubles.wire import Request

AT_ONCE = Speed()


class Fakellama(Factory):
    """One llama-server double on 127.0.0.1.

    `context` is tokens per slot; `length` words are said where a request sets no limit. `calls` are
    all requests that came, `running` those whose client still waits for the end.
    """

    noisy = False

    def __init__(
        self,
        reactor: Any,
        *,
        slots: int = 2,
        context: int = 2048,
        alias: str = "tiny",
        speed: Speed = AT_ONCE,
        length: int = 16,
        api_key: str | None = None,
        embeds: bool = False,
    ) -> None:
        self.clock = Alarms(reactor)
        self._reactor = reactor
        self.alias = alias
        self.length = length
        self.api_key = api_key
        self.embeds = embeds
        self.slots = Slots(self.clock, slots, context, speed)
        self.calls: list[Call] = []
        self.running: set[Call] = set()
        self.connections: set[Connection] = set()
        self.most_open = 0
        self.port = 0
        self._accepted = 0
        self._listening: Any = None
        self._script: deque[Act] = deque([Act("normal")])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def work(self) -> list[Call]:
        """The POSTs among the calls: what was asked of the model, probes apart."""
        return [call for call in self.calls if call.request.method == "POST"]

    def listen(self, port: int | None = None) -> int:
        """Accept connections, on the same port as before if there was one; the port's number."""
        self._listening = self._reactor.listenTCP(port or self.port, self, interface="127.0.0.1")
        self.port = self._listening.getHost().port
        return self.port

    def refuse(self) -> Deferred[None]:
        """Stop accepting, so that connects are refused; what is connected goes on."""
        listening, self._listening = self._listening, None
        return maybeDeferred(listening.stopListening) if listening else succeed(None)

    def kill(self) -> Deferred[None]:
        """Go as a killed process does: every connection reset, the port closed."""
        for connection in list(self.connections):
            connection.reset()
        return self.refuse()

    async def stop(self) -> None:
        """Go, and leave nothing behind once this returns."""
        self.clock.call_off()
        await self.kill()
        while self.connections:
            await deferLater(self._reactor, 0)
        self.clock.call_off()

    def behave(self, script: str) -> None:
        """From now on behave as `script` says; see `behaviours.read_script`. After it: true."""
        self._script = deque([*read_script(script), Act("normal")])

    def buildProtocol(self, _: object) -> Connection:
        self._accepted += 1
        connection = Connection(self, self._accepted)
        self.connections.add(connection)
        return connection

    def meet(self, request: Request, connection: Connection) -> Reply:
        """Answer one request as the script has it."""
        act = self._act(request)
        call = Call(len(self.calls), connection.number, request, act.name, self.clock.seconds())
        self.calls.append(call)
        self.running.add(call)
        self.most_open = max(self.most_open, len(self.running))
        reply = SPOILT.get(act.name, Reply)(connection, call, act.argument)
        if act.name in CANNED:
            Player(self.clock, CANNED[act.name], reply)
        else:
            answer(self, request, reply)
        return reply

    def _act(self, request: Request) -> Act:
        act = self._script[0]
        if request.method != "POST":
            return act if act.probes else Act("normal")
        if act.times is not None:
            self._script[0] = Act(act.name, act.argument, act.times - 1, act.probes)
            if act.times <= 1:
                self._script.popleft()
        return act


def _arguments() -> Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--context", type=int, default=2048, help="tokens per slot")
    parser.add_argument("--alias", default="tiny")
    parser.add_argument(
        "--length", type=int, default=16, help="words said when nothing limits them"
    )
    parser.add_argument(
        "--prompt-speed", type=float, default=0.0, help="tokens per second, 0: at once"
    )
    parser.add_argument("--speed", type=float, default=0.0, help="tokens per second, 0: at once")
    parser.add_argument("--api-key")
    parser.add_argument("--embeddings", action="store_true")
    parser.add_argument("--control", action="store_true", help="obey lines on standard input")
    parser.add_argument(
        "--behaviour", default="normal", help="a script such as 2*loading!,die-rst:3"
    )
    return parser.parse_args()


def main() -> None:
    """Run one double until SIGTERM, or until its standard input ends."""
    from twisted.internet import reactor

    chosen = _arguments()
    fake = Fakellama(
        reactor,
        slots=chosen.slots,
        context=chosen.context,
        alias=chosen.alias,
        speed=Speed(chosen.prompt_speed, chosen.speed),
        length=chosen.length,
        api_key=chosen.api_key,
        embeds=chosen.embeddings,
    )
    fake.behave(chosen.behaviour)
    print(fake.listen(chosen.port), flush=True)
    if chosen.control:
        StandardIO(Control(fake, reactor))
    reactor.run()


if __name__ == "__main__":
    main()
