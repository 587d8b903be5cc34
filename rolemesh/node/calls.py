"""Small HTTP calls to servers that we do not trust with our time or memory."""

from collections.abc import Coroutine
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

import rolemesh

SMALL = 64 * 1024  # bytes of an answer


class TooLong(Exception):
    """An answer's body is longer than the caller wanted to read."""


@frozen
class Answer:
    """A whole answer; `retry_after` are the seconds after which it wants to be asked again."""

    status: int
    body: bytes
    retry_after: float | None = None


@implementer(IBodyProducer)
class _Bytes:
    """A request's body that is there already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def pauseProducing(self) -> None:
        """All was written at once."""

    def resumeProducing(self) -> None:
        """All was written at once."""

    def stopProducing(self) -> None:
        """All was written at once."""


class _Reader(Protocol):
    """Collects a body up to a limit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: list[bytes] = []
        self._too_long = False
        self.done: Deferred[bytes] = Deferred(lambda _: self._hang_up())

    def dataReceived(self, data: bytes) -> None:
        self._limit -= len(data)
        if self._limit < 0:
            self._too_long = True
            self._hang_up()
        else:
            self._parts.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._too_long:
            self.done.errback(TooLong())
        elif reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(b"".join(self._parts))
        else:
            self.done.errback(reason)

    def _hang_up(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


def _leavable(exchange: Coroutine[Any, Any, Answer]) -> Deferred[Answer]:
    """The answer. A cancel is a CancelledError in every phase; an Agent has other names for it."""
    going_on = Deferred.fromCoroutine(exchange)

    def leave(done: Deferred[Answer]) -> None:
        done.errback(CancelledError())
        going_on.cancel()

    def arrive(result: Answer | Failure) -> None:
        if not done.called:
            done.callback(result)

    done: Deferred[Answer] = Deferred(leave)
    going_on.addBoth(arrive)
    return done


class Caller:
    """One exchange at a time over an Agent: no redirects, no cookies, a limit on time and size."""

    def __init__(self, agent: IAgent, clock: IReactorTime, timeout: float) -> None:
        self._agent = agent
        self._clock = clock
        self._timeout = timeout

    async def call(
        self,
        method: str,
        url: str,
        *,
        bearer: str | None = None,
        body: bytes | None = None,
        limit: int = SMALL,
        timeout: float | None = None,
    ) -> Answer:
        """The answer, whatever its status; `timeout` bounds the whole exchange, in seconds.

        :raises twisted.internet.defer.TimeoutError: when it took longer.
        :raises TooLong: when the body has more than `limit` bytes.
        :raises Exception: what the Agent raises when the server cannot be reached or breaks off.
        """
        exchange = _leavable(self._exchange(method, url, bearer, body, limit))
        return await exchange.addTimeout(timeout or self._timeout, self._clock)

    async def _exchange(
        self, method: str, url: str, bearer: str | None, body: bytes | None, limit: int
    ) -> Answer:
        headers = Headers({"user-agent": [f"rolemesh-node/{rolemesh.__version__}"]})
        if bearer is not None:
            headers.addRawHeader("authorization", f"Bearer {bearer}")
        if body is not None:
            headers.addRawHeader("content-type", "application/json")
        producer = None if body is None else _Bytes(body)
        response: IResponse = await self._agent.request(
            method.encode(), url.encode(), headers, producer
        )
        reader = _Reader(limit)
        response.deliverBody(reader)
        return Answer(response.code, await reader.done, _retry_after(response.headers))


def _retry_after(headers: Headers) -> float | None:
    """As our gateways tell it; a date, which others may send, is not read."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        (told,) = headers.getRawHeaders(name, [""])[-1:]
        if told.isdecimal() and len(told) < 10:
            return int(told) / unit
    return None
