"""A real gateway in this process, on a port of its own, over doubles."""

from pathlib import Path
from typing import Any, Self

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import ILogObserver, formatEvent, globalLogPublisher
from twisted.trial.unittest import TestCase
from zope.interface import provider

from rolemesh.config.gateway import GatewaySettings
from rolemesh.config.listeners import Listener
from rolemesh.core.model import Policy, Role, Target, Timeouts
from rolemesh.gateway.life import GatewayLife
from rolemesh.gateway.wiring import build
from tests.doubles import raw
from tests.doubles.fakellama import Fakellama
from tests.doubles.model import says

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello world"}]
WORDS = 5
TEXT = says(HELLO, WORDS)
SECONDS = 30.0  # for what takes less than one on an idle machine
BEAT = 0.01  # seconds


def sleep(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)


def patient(**limits: float) -> Timeouts:
    """The usual limits, but for the two seconds that a connect may take: here the other end is the
    same process, which a busy machine may keep from accepting for as long."""
    return Timeouts(**{"connect": 30.0, **limits})


class Stalls:
    """Within it, `seconds` is for how long a busy machine kept the reactor from its work: no time
    in which a promise could be kept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last = reactor.seconds()
        self._beating = LoopingCall(self._beat)

    def __enter__(self) -> Self:
        self._beating.start(BEAT, now=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._beating.stop()

    def _beat(self) -> None:
        now = reactor.seconds()
        self.seconds += max(0.0, now - self._last - BEAT)
        self._last = now


class MeshCase(TestCase):
    """Tests of a gateway whose role `coder` asks its backends in the order given (policy first).

    Its backends are called `coder-1`, `coder-2`, …, or `coder` when there is one.
    """

    timeout = 120

    def setUp(self) -> None:
        self.logged: list[str] = []

        @provider(ILogObserver)
        def hear(event: dict[str, Any]) -> None:
            self.logged.append(f"{formatEvent(event)} {event}")

        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def fake(self, behaviour: str = "normal", **options: Any) -> Fakellama:
        """A double that listens."""
        fake = Fakellama(reactor, **{"length": WORDS, **options})
        fake.listen()
        fake.behave(behaviour)
        self.addCleanup(lambda: Deferred.fromCoroutine(fake.stop()))
        return fake

    async def gateway(self, *backends: Fakellama | str, **limits: float) -> GatewayLife:
        """A gateway with a role `coder` over doubles or URLs, once all of them are ready.

        `limits` are those of `Timeouts`.
        """
        urls = [each if isinstance(each, str) else each.url for each in backends]
        use = tuple(Target(url=url) for url in urls)
        role = Role("coder", use=use, policy=Policy.FIRST, timeouts=patient(**limits))
        settings = GatewaySettings(roles={"coder": role}, drain=1.0)
        where = [Listener("tcp:0:interface=127.0.0.1")]
        life, _ = build(reactor, settings, Path("models.yaml"), where)
        life.startService()
        self.addCleanup(life.stopService)
        while not life.listening.ports:
            await sleep(0.01)
        address: Any = life.listening.ports[0].getHost()
        self.port: int = address.port
        await self.until_ready(len(urls))
        return life

    async def until_ready(self, count: int) -> None:
        await self.until(f"{count} backends are ready", lambda: self._has_ready(count))

    async def _has_ready(self, count: int) -> bool:
        return await self.ready_count() == count

    async def ready_count(self) -> int:
        """How many backends of `coder` are ready."""
        answer = await raw.get(reactor, self.port, "/ready")
        ready: int = answer.json["roles"]["coder"]["ready"]
        return ready

    async def until(self, what: str, ask: Any, seconds: float = SECONDS) -> None:
        """Ask, plainly or for something to await, until the answer is true."""
        end = reactor.seconds() + seconds
        while True:
            answer = ask()
            if answer if isinstance(answer, bool) else await answer:
                return
            if reactor.seconds() > end:
                self.fail(f"not within {seconds} s: {what}")
            await sleep(0.02)

    def body(self, **more: Any) -> dict[str, Any]:
        return {"model": "coder", "messages": HELLO, "max_tokens": WORDS, **more}

    def ask(self, **more: Any) -> Deferred[raw.Answer]:
        """A chat through the gateway; `stream=True` makes it one."""
        return Deferred.fromCoroutine(raw.post(reactor, self.port, CHAT, self.body(**more)))

    async def begin(self, **more: Any) -> raw.RawClient:
        """A chat through the gateway that can be watched and left."""
        client = await raw.connect(reactor, self.port)
        client.post(CHAT, self.body(**more))
        return client

    async def outcomes(self, answer: raw.Answer) -> list[str]:
        """What each try at a backend came to, as the request's record has it."""
        path = f"/v1/requests/{answer.headers['x-request-id']}"
        record = (await raw.get(reactor, self.port, path)).json
        return [attempt["outcome"] for attempt in record["attempts"]]

    def assert_served(self, answer: raw.Answer, by: str = "coder-2") -> None:
        """The whole answer of that backend, and no sign of another's."""
        self.assertEqual(answer.status, 200, answer.data)
        self.assertEqual(answer.headers["x-rolemesh-backend"], by)
        self.assertTrue(answer.finished)
        if answer.chunked:
            self.assertEqual((answer.text, answer.data_lines[-1]), (TEXT, b"[DONE]"))
        else:
            self.assertEqual(answer.json["choices"][0]["message"]["content"], TEXT)

    def assert_refused(
        self, answer: raw.Answer, status: int, code: str, *, retry: bool | None = None
    ) -> None:
        """An error of our table, in OpenAI's shape, with its hints and without our inside."""
        self.assertEqual(answer.status, status, answer.data)
        error = answer.json["error"]
        self.assertEqual(error["code"], code)
        self.assertLessEqual({"message", "type", "param", "code"}, set(error))
        self.assertIn("x-request-id", answer.headers)
        self.assertIn(answer.headers["x-should-retry"], ("true", "false"))
        if retry is not None:
            self.assertEqual(answer.headers["x-should-retry"], str(retry).lower())
        self.assert_tells_nothing(answer)

    def assert_broken_off(self, answer: raw.Answer, code: str, after: int | None = None) -> None:
        """Events, then the error as the last one, then an end that does not look like one."""
        self.assertEqual(answer.status, 200, answer.data)
        self.assertFalse(answer.reset)
        self.assertFalse(answer.finished)
        self.assertNotIn(b"[DONE]", answer.data_lines)
        self.assertEqual(answer.events[-1]["error"]["code"], code)
        if after is not None:
            self.assertEqual(len(answer.events) - 1, after)
        self.assert_tells_nothing(answer)

    def assert_tells_nothing(self, answer: raw.Answer) -> None:
        """No address of a backend is in what a client got."""
        self.assertNotIn(b"127.0.0.1", answer.data)
        self.assertNotIn(b"Traceback", answer.data)
