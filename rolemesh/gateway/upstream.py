"""Requests to backends: treq over an Agent of ours, which bounds what a backend may send."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hyperlink import EncodedURL
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import (
    ConnectError,
    ConnectionRefusedError,
    DNSLookupError,
    TimeoutError,
)
from twisted.internet.interfaces import IConsumer
from twisted.web._newclient import (
    ParseError,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.client import Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from rolemesh.core.attempts import Outcome
from rolemesh.core.model import Backend
from rolemesh.gateway.connections import Endpoints, PlainAgent, Pool
from rolemesh.gateway.lane import Lane
from rolemesh.tls.client import objection


class TryFailed(Exception):
    """A try came to nothing before the client was given anything."""

    def __init__(self, outcome: Outcome, why: str = "") -> None:
        super().__init__(outcome.value if not why else f"{outcome.value}: {why}")
        self.outcome = outcome


@implementer(IBodyProducer)
class BytesBody:
    """A body that is there already, written in one go."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:
        pass

    def resumeProducing(self) -> None:
        pass

    def stopProducing(self) -> None:
        pass


class _Wired(EncodedURL):
    """A URL that is as the wire wants it, so that treq need not work that out each time.

    It has no password, which nobody would be shown.
    """

    _text = ""

    def to_uri(self) -> "_Wired":
        return self

    def to_text(self, with_password: bool = False) -> str:
        self._text = self._text or super().to_text(with_password)
        return self._text


@lru_cache(maxsize=1024)
def _wired(url: str) -> _Wired:
    wired = _Wired.from_text(EncodedURL.from_text(url).to_uri().to_text())
    assert isinstance(wired, _Wired)  # hyperlink makes what it is called on
    return wired


class Upstream:
    """Sends requests to backends.

    A llama-server gets a fresh connection for each: it closes one after every stream whatever its
    head says, and to send again what failed on a kept one might kill it twice. With other servers
    connections are kept, and what fails on a kept one before a byte came is sent again over a
    fresh one. None is kept where a name was pinned to an address: two nodes may use one name.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        lane = Lane(reactor)
        self._pools = {kept: Pool(reactor, kept, lane) for kept in (False, True)}
        self._agents: dict[tuple[float, bool], IAgent] = {}

    async def send(
        self,
        backend: Backend,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        connect_timeout: float,
    ) -> IResponse:
        """The head of a backend's answer; its body waits to be delivered.

        Cancelling it closes the connection.

        :raises TryFailed: nothing came that is an answer.
        """
        keep = not backend.llama_server and backend.address is None
        while True:
            agent = self._agent(connect_timeout, keep, backend.address)
            asking = self._ask(backend, method, path, body, headers, agent)
            reused = self._pools[keep].reused
            try:
                response = await _given_up_plainly(asking)
            except CancelledError:
                raise
            except Exception as error:
                if reused and _nothing_came(error):
                    keep = False
                    continue
                why = objection(error) or type(error).__name__
                raise TryFailed(_outcome_of(error), why) from None
            return response.original  # treq's wrapper has nothing that a proxy needs

    def close(self) -> Deferred[None]:
        """Close the connections that are kept. Fires when they are closed."""
        return self._pools[True].closeCachedConnections()

    def _ask(
        self,
        backend: Backend,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        agent: IAgent,
    ) -> Deferred[Any]:
        sent = Headers({name: [value] for name, value in headers.items()})
        if backend.key:
            sent.setRawHeaders("authorization", [f"Bearer {backend.key}"])
        return HTTPClient(agent).request(
            method,
            _wired(backend.base_url + path),
            headers=sent,
            data=BytesBody(body) if body is not None else None,
            unbuffered=True,
            allow_redirects=False,
            reactor=self._reactor,
        )

    def _agent(self, connect_timeout: float, keep: bool, address: str | None) -> IAgent:
        if address is not None:  # there is no end to these
            return self._new_agent(connect_timeout, keep, address)
        agent = self._agents.get((connect_timeout, keep))
        if agent is None:
            agent = self._agents[connect_timeout, keep] = self._new_agent(connect_timeout, keep)
        return agent

    def _new_agent(self, connect_timeout: float, keep: bool, address: str | None = None) -> IAgent:
        endpoints = Endpoints(self._reactor, connect_timeout, address)
        return PlainAgent(Agent.usingEndpointFactory(self._reactor, endpoints, self._pools[keep]))


def _given_up_plainly(asking: Deferred[Any]) -> Deferred[Any]:
    """`asking`, which when cancelled fails with CancelledError; Twisted's own failure would look
    like a backend that went away."""

    def give_up(waiting: Deferred[Any]) -> None:
        waiting.errback(CancelledError())
        asking.cancel()

    def pass_on(result: Any) -> None:
        if not plain.called:
            plain.callback(result)

    plain: Deferred[Any] = Deferred(give_up)
    asking.addBoth(pass_on)
    return plain


def _nothing_came(error: Exception) -> bool:
    """Whether a request ended before a byte of its answer, as it does on a connection that its
    server had just closed."""
    return isinstance(error, ResponseNeverReceived | RequestTransmissionFailed)


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, ConnectionRefusedError | DNSLookupError):
        return Outcome.REFUSED
    if isinstance(error, TimeoutError):
        return Outcome.CONNECT_TIMEOUT
    if isinstance(error, ConnectError):
        return Outcome.REFUSED
    if isinstance(error, ResponseFailed | ResponseNeverReceived | RequestNotSent):
        garbled = any(reason.check(ParseError) for reason in getattr(error, "reasons", ()))
        return Outcome.GARBLED if garbled else Outcome.DIED
    if isinstance(error, ParseError):
        return Outcome.GARBLED
    return Outcome.DIED
