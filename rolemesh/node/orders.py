"""One gateway's orders: done, and answered by calls."""

from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from rolemesh.core.commands import Command, Kind, Ledger, Result, read_command, read_taken
from rolemesh.core.endings import backoff
from rolemesh.core.report import encode
from rolemesh.node.calls import Caller
from rolemesh.node.commands import Operator, Tail

FIRST_RETRY, LAST_RETRY = 1.0, 30.0  # seconds between tries to tell a result
TRIES = 6  # to tell a result
MOST_UNDER_WAY = 32  # orders of one gateway
LOOK_EVERY = 0.5  # seconds between looks at a log that is followed
BEAT = 10.0  # seconds; an empty part then asks whether anybody still listens


class Orders:
    """Each is done once, however often it comes, and answered until the gateway has heard it.
    `path` is the node's own, below the gateway's URL."""

    _log = Logger()

    def __init__(
        self,
        path: str,
        token: str | None,
        caller: Caller,
        clock: IReactorTime,
        operator: Operator,
        random: Callable[[], float],
    ) -> None:
        self._path = path
        self._token = token
        self._caller = caller
        self._clock = clock
        self._operator = operator
        self._random = random
        self._ledger = Ledger()
        self._following: set[str] = set()
        self._under_way: set[Deferred[None]] = set()

    def stop(self) -> None:
        """Give up all that is under way."""
        for working in tuple(self._under_way):
            working.cancel()

    def hear(self, data: bytes) -> None:
        """Take in an order as it came over the wire; what is none is logged."""
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
        lines, told = tail.last(command.lines, command.after), self._clock.seconds()
        first = Result(done=True, lines=lines, more=command.follow, at=tail.mark)
        wanted, part = await self._answer(command.id, first), 0
        while wanted and command.follow:
            await deferLater(self._clock, LOOK_EVERY)
            lines = tail.news()
            if lines or self._clock.seconds() - told >= BEAT:
                part, told = part + 1, self._clock.seconds()
                more = Result(done=True, part=part, lines=lines, more=True, at=tail.mark)
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
