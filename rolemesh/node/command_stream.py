"""Orders from a gateway, heard over a stream that this node opens, and answered by calls."""

from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import msgspec
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

import rolemesh
from rolemesh.core.commands import (
    LONGEST_COMMAND,
    Command,
    Kind,
    Ledger,
    Result,
    read_command,
    read_taken,
)
from rolemesh.core.endings import backoff
from rolemesh.core.gateways import next_try
from rolemesh.core.report import encode
from rolemesh.core.sse import BrokenStream, Splitter
from rolemesh.node.calls import Caller
from rolemesh.node.commands import Operator, Tail
from rolemesh.tls.client import Untrusted

OPENING = 5.0  # seconds that a gateway may take to open the stream
SILENCE = 30.0  # seconds; a gateway says every ten that it is there
FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # seconds between tries to tell a result
UNKNOWN_RETRY = 2.0  # seconds; whoever does not know us yet will once we are registered
REFUSED_RETRY = 60.0  # seconds; whoever refuses our token is not asked again at once
TRIES = 6  # to tell a result
MOST_UNDER_WAY = 32  # orders of one gateway
LOOK_EVERY = 0.5  # seconds between looks at a log that is followed
BEAT = 10.0  # seconds; an empty part then asks whether anybody still listens


class NoStream(Exception):
    """There is none, or none any more. `status` is what the gateway answered instead."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class CommandStream(Service):
    """One gateway's orders: each is done once, however often it comes, and answered until the
    gateway has heard it. `path` is the node's own, below the gateway's URL."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        instance: str,
        token: str | None,
        agent: IAgent,
        caller: Caller,
        clock: IReactorTime,
        operator: Operator,
        random: Callable[[], float],
    ) -> None:
        self._path = path
        self._instance = instance
        self._token = token
        self._agent = agent
        self._caller = caller
        self._clock = clock
        self._operator = operator
        self._random = random
        self._ledger = Ledger()
        self._following: set[str] = set()
        self._under_way: set[Deferred[None]] = set()
        self._listening: Deferred[None] | None = None
        self._failures = 0
        self._away_since = 0.0
        self._said = ""

    def startService(self) -> None:
        super().startService()
        self._listening = Deferred.fromCoroutine(self._listen_for_ever())
        self._listening.addErrback(_only_cancelled)

    def stopService(self) -> None:
        super().stopService()
        if self._listening is not None:
            self._listening.cancel()
        for working in tuple(self._under_way):
            working.cancel()

    async def _listen_for_ever(self) -> None:
        while True:
            try:
                await self._listen()
            except CancelledError:
                raise
            except Exception as problem:
                if not self.running:  # an Agent has other names for a cancel
                    return
                self._tell(str(problem) or type(problem).__name__)
                await deferLater(self._clock, self._wait(problem))

    def _wait(self, problem: Exception) -> float:
        if isinstance(problem, Untrusted):
            return REFUSED_RETRY
        match getattr(problem, "status", 0):
            case 401 | 403:
                return REFUSED_RETRY
            case 409 | 410:
                return UNKNOWN_RETRY
        now = self._clock.seconds()
        if not self._failures:
            self._away_since = now
        self._failures += 1
        return next_try(self._failures, now - self._away_since, self._random())

    async def _listen(self) -> None:
        headers = Headers({"user-agent": [f"rolemesh-node/{rolemesh.__version__}"]})
        if self._token is not None:
            headers.addRawHeader("authorization", f"Bearer {self._token}")
        url = f"{self._path}/commands?instance={self._instance}".encode()
        opening = self._agent.request(b"GET", url, headers, None)
        response = await opening.addTimeout(OPENING, self._clock)
        reader = _Events(self._clock, self._hear)
        if response.code != 200:
            reader.refuse(NoStream(f"it answered {response.code}", response.code))
        else:
            self._failures = 0
            self._tell("")
        response.deliverBody(reader)
        await reader.done

    def _tell(self, said: str) -> None:
        if said and said != self._said:
            self._log.info("no commands from {path}: {why}", path=self._path, why=said)
        self._said = said

    def _hear(self, data: bytes) -> None:
        try:
            command = read_command(data)
        except msgspec.MsgspecError as problem:
            self._log.warn("a command is not understood: {why}", why=str(problem))
            return
        if len(self._under_way) >= MOST_UNDER_WAY:
            self._log.warn("more than {most} commands at once", most=MOST_UNDER_WAY)
        elif command.kind is Kind.LOGS:
            self._begin_logs(command)
        elif self._ledger.begin(command.id):
            self._work(self._do(command))
        else:
            self._answer_again(command.id)

    def _begin_logs(self, command: Command) -> None:
        if command.id not in self._following:
            self._following.add(command.id)
            self._work(self._tell_log(command))

    def _answer_again(self, id: str) -> None:
        result = self._ledger.result(id)
        if result is not None:
            self._work(self._answer(id, result))

    def _work(self, coroutine: Coroutine[Deferred[Any], Any, object]) -> None:
        working: Deferred[None] = Deferred.fromCoroutine(self._guarded(coroutine))
        self._under_way.add(working)
        working.addBoth(lambda _: self._under_way.discard(working))

    async def _guarded(self, coroutine: Coroutine[Deferred[Any], Any, object]) -> None:
        try:
            await coroutine
        except CancelledError:
            pass
        except Exception:
            self._log.failure("a command broke")

    async def _do(self, command: Command) -> None:
        self._log.info(
            "an operator wants: {kind} {backend}",
            kind=command.kind.value,
            backend=command.backend or "all",
            **{"rolemesh.command": command.id},
        )
        result = await self._operator.do(command)
        self._ledger.finish(command.id, result)
        await self._answer(command.id, result)

    async def _tell_log(self, command: Command) -> None:
        try:
            tail = self._operator.tail(command.backend)
            if tail is None:
                await self._answer(command.id, await self._operator.do(command))
            else:
                await self._follow(command, tail)
        finally:
            self._following.discard(command.id)

    async def _follow(self, command: Command, tail: Tail) -> None:
        lines, told = tail.last(command.lines), self._clock.seconds()
        first = Result(done=True, lines=lines, more=command.follow)
        wanted, part = await self._answer(command.id, first), 0
        while wanted and command.follow:
            await deferLater(self._clock, LOOK_EVERY)
            lines = tail.news()
            if lines or self._clock.seconds() - told >= BEAT:
                part, told = part + 1, self._clock.seconds()
                more = Result(done=True, part=part, lines=lines, more=True)
                wanted = await self._answer(command.id, more)

    async def _answer(self, id: str, result: Result) -> bool:
        """Whether the gateway wants more; one that cannot be told at last wants none."""
        url, body = f"{self._path}/commands/{id}", encode(result)
        for failures in count(1):
            try:
                answer = await self._caller.call("POST", url, bearer=self._token, body=body)
                if answer.status < 500:
                    return answer.status == 200 and read_taken(answer.body).more
            except (CancelledError, msgspec.MsgspecError):
                raise
            except Exception as problem:
                self._log.debug("a result is not told: {why}", why=str(problem))
            if failures >= TRIES:
                break
            await deferLater(
                self._clock, backoff(failures, FIRST_RETRY, LAST_RETRY, self._random())
            )
        return False


def _only_cancelled(failure: Failure) -> None:
    failure.trap(CancelledError)


class _Events(Protocol):
    """Cuts a stream into commands. `done` fails when it ends, in whatever way."""

    def __init__(self, clock: IReactorTime, hear: Callable[[bytes], None]) -> None:
        self._hear = hear
        self._splitter = Splitter(LONGEST_COMMAND)
        self._why: Exception | None = None
        self._silence = clock.callLater(SILENCE, self._give_up, TimeoutError("it fell silent"))
        self.done: Deferred[None] = Deferred(lambda _: self._hang_up())

    def refuse(self, why: Exception) -> None:
        """Read nothing, and fail with that."""
        self._why = why

    def connectionMade(self) -> None:
        if self._why is not None:
            self._give_up(self._why)

    def dataReceived(self, data: bytes) -> None:
        if self._why is not None:
            return
        self._silence.reset(SILENCE)
        try:
            for event in self._splitter.feed(data):
                self._hear(event.data)
        except BrokenStream as broken:
            self._give_up(broken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._stop_clock()
        if self.done.called:
            return
        ended = NoStream("the stream ended") if reason.check(ResponseDone) else reason
        self.done.errback(self._why or ended)

    def _give_up(self, why: Exception) -> None:
        self._why = why
        self._hang_up()

    def _hang_up(self) -> None:
        self._stop_clock()
        if self.transport is not None:
            self.transport.loseConnection()

    def _stop_clock(self) -> None:
        if self._silence.active():
            self._silence.cancel()
