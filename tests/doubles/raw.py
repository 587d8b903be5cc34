"""A client that sees bytes: what came, what ended it, and nothing else interpreted unless asked."""

import json
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from tests.doubles.wire import LAST_CHUNK

NONE: Mapping[str, str] = MappingProxyType({})


@define
class Answer:
    """One answer as its bytes; `reset` when the connection ended with an error."""

    data: bytes = field(repr=False)
    reset: bool = False

    @property
    def status(self) -> int:
        return int(self.data.split(b" ", 2)[1])

    @property
    def head(self) -> str:
        return self.data.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def headers(self) -> dict[str, str]:
        pairs = (line.partition(":") for line in self.head.split("\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in pairs}

    @property
    def chunked(self) -> bool:
        return self.headers.get("transfer-encoding") == "chunked"

    @property
    def finished(self) -> bool:
        """Whether the body ended as its framing promised."""
        body = self.data.partition(b"\r\n\r\n")[2]
        if self.chunked:
            return body.endswith(LAST_CHUNK)
        return len(body) == int(self.headers.get("content-length", -1))

    @property
    def body(self) -> bytes:
        """The body without its framing, as far as it came."""
        body = self.data.partition(b"\r\n\r\n")[2]
        return _dechunked(body) if self.chunked else body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data_lines(self) -> list[bytes]:
        """What stands after `data: ` in each line that has it."""
        lines = self.body.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        return [line[5:].strip() for line in lines if line.startswith(b"data:")]

    @property
    def events(self) -> list[Any]:
        """Every event that is whole JSON, `[DONE]` apart."""
        found = []
        for line in self.data_lines:
            with suppress(ValueError):
                found.append(json.loads(line))
        return [event for event in found if isinstance(event, dict)]

    @property
    def text(self) -> str:
        """The words of a streamed chat."""
        choices = [choice for event in self.events for choice in event.get("choices", ())]
        return "".join(choice["delta"].get("content") or "" for choice in choices)


def _dechunked(body: bytes) -> bytes:
    out, rest = b"", body
    while (line := rest.partition(b"\r\n"))[1]:
        size = int(line[0], 16)
        out += line[2][:size]
        rest = line[2][size + 2 :]
    return out


class RawClient(Protocol):
    """One connection; `closed` fires with an `Answer` of all bytes once the peer has ended it."""

    transport: Any

    def __init__(self) -> None:
        self.data = b""
        self.closed: Deferred[Answer] = Deferred()
        self._waits: list[tuple[bytes, Deferred[None]]] = []

    def post(
        self, path: str, body: object, headers: Mapping[str, str] = NONE, close: bool = True
    ) -> None:
        """Send a POST of JSON; `close` asks the peer to end the connection with its answer."""
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"Host": "localhost", "Content-Type": "application/json", **headers}
        fields["Content-Length"] = str(len(encoded))
        self._send("POST", path, fields, encoded, close)

    def get(self, path: str, headers: Mapping[str, str] = NONE, close: bool = True) -> None:
        self._send("GET", path, {"Host": "localhost", **headers}, b"", close)

    def delete(self, path: str, headers: Mapping[str, str] = NONE, close: bool = True) -> None:
        self._send("DELETE", path, {"Host": "localhost", **headers}, b"", close)

    def _send(self, verb: str, path: str, fields: dict[str, str], body: bytes, close: bool) -> None:
        if close:
            fields["Connection"] = "close"
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(f"{verb} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)

    def seen(self, mark: bytes) -> Deferred[None]:
        """Fires once `mark` stands in what came; never fails."""
        wait: Deferred[None] = Deferred()
        self._waits.append((mark, wait))
        self._wake()
        return wait

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._wake()

    def _wake(self) -> None:
        ready = [pair for pair in self._waits if pair[0] in self.data]
        self._waits = [pair for pair in self._waits if pair not in ready]
        for _, wait in ready:
            wait.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.closed.callback(Answer(self.data, reset=not reason.check(ConnectionDone)))

    def leave(self, *, reset: bool = True) -> None:
        """Go without a word more: with a reset, or with a close."""
        if reset:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()


def connect(reactor: Any, port: int) -> Deferred[RawClient]:
    """Connect to 127.0.0.1."""
    return connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", port), RawClient())


async def post(
    reactor: Any, port: int, path: str, body: object, headers: Mapping[str, str] = NONE
) -> Answer:
    """One POST on a connection of its own, read until the peer ends it."""
    client = await connect(reactor, port)
    client.post(path, body, headers)
    return await client.closed


async def get(reactor: Any, port: int, path: str, headers: Mapping[str, str] = NONE) -> Answer:
    """One GET on a connection of its own, read until the peer ends it."""
    client = await connect(reactor, port)
    client.get(path, headers)
    return await client.closed
