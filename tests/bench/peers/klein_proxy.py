"""The barest proxy of Klein and treq: `python -m tests.bench.peers.klein_proxy PORT UPSTREAM`."""

import sys
from typing import Any

import treq
from klein import Klein
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.server import Site

app = Klein()


class _Relay(Protocol):
    transport: Any

    def __init__(self, request: Any) -> None:
        self._request = request
        self.done: Deferred[None] = Deferred(lambda _: self.transport.stopProducing())

    def connectionMade(self) -> None:
        self._request.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        self._request.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._request.channel is not None:
            self._request.unregisterProducer()
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(None)
        elif not self.done.called:
            self.done.errback(reason)


@app.route("/v1/chat/completions", methods=["POST"])
async def chat(request: Any) -> None:
    response = await treq.post(
        sys.argv[2] + "/v1/chat/completions",
        request.content.read(),
        headers=Headers({"content-type": ["application/json"]}),
        unbuffered=True,
    )
    request.setResponseCode(response.code)
    for name in ("content-type", "content-length"):
        for value in response.headers.getRawHeaders(name, ()):
            request.setHeader(name, value)
    relay = _Relay(request)
    response.deliverBody(relay)
    await relay.done


@app.route("/health")
def health(_: Any) -> bytes:
    return b"ok"


if __name__ == "__main__":
    reactor: Any = _reactor
    reactor.listenTCP(int(sys.argv[1]), Site(app.resource()), interface="127.0.0.1")
    reactor.run()
