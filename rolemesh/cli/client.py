"""How a command asks a gateway: plain blocking HTTP in which nothing waits for ever."""

import argparse
import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any
from urllib.parse import SplitResult, urlsplit

from attrs import field, frozen

from rolemesh.certificates import pin_of_der
from rolemesh.config.tls import Trust
from rolemesh.core.sse import BrokenStream, Splitter

CONNECT = 5.0  # seconds
PATIENCE = 120.0  # seconds from the first byte out to the last byte in
MAX_BODY = 4 * 1024 * 1024
PIECE = 64 * 1024


class Failed(Exception):
    """What was asked for was not had, told in one line."""


class Refused(Failed):
    """The gateway answered, and it was no: with that status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(f"{status} {why}")
        self.status = status


def base_url(text: str) -> SplitResult:
    """A gateway's URL for argparse; with `/v1` or without is the same."""
    url = urlsplit(text.rstrip("/").removesuffix("/v1"))
    try:
        if url.scheme in ("http", "https") and url.hostname and url.port != 0:
            return url
    except ValueError:  # the port is no number
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as http://127.0.0.1:8000")


@frozen
class Answer:
    """A whole answer."""

    status: int
    body: bytes

    def json(self) -> Any:
        """The body, read.

        :raises Failed: when it is not JSON.
        """
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failed(f"{self.status}: the answer is not JSON") from None

    def good(self) -> Any:
        """The body of a 200.

        :raises Refused: for any other status, with the reason that the gateway gives.
        """
        if self.status == 200:
            return self.json()
        raise Refused(self.status, reason(self.json()))


def reason(body: Any) -> str:
    """The text of an error in OpenAI's shape."""
    match body:
        case {"error": {"message": str(message), "code": str(code)}}:
            return f"{code}: {message}"
        case {"error": {"message": str(message)}}:
            return message
        case _:
            return "without a reason"


@frozen
class Gateway:
    """One gateway, asked over a connection for each question; `patience` is in seconds."""

    url: SplitResult
    key: str | None = field(default=None, repr=False)
    patience: float = PATIENCE
    trust: Trust = field(factory=Trust)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        """The whole answer; raises Failed when there is none."""
        with closing(_Exchange(self)) as exchange:
            return exchange.answer(method, path, body)

    def events(self, path: str, body: Mapping[str, Any]) -> Iterator[bytes]:
        """The data of each server-sent event; raises Failed for an error and a cut stream."""
        with closing(_Exchange(self)) as exchange:
            yield from exchange.events("POST", path, body)

    def follow(self, path: str) -> Iterator[bytes]:
        """As `events`, for a stream without an end; `patience` is then for each silence in it."""
        with closing(_Exchange(self, endless=True)) as exchange:
            yield from exchange.events("GET", path, None)


class _Exchange:
    """One request and its answer, with one deadline for both together, or for each silence of an
    endless one."""

    def __init__(self, gateway: Gateway, endless: bool = False) -> None:
        self._gateway = gateway
        self._endless = endless
        self._deadline = monotonic() + gateway.patience
        self._connection = _connection(gateway)

    def close(self) -> None:
        self._connection.close()

    def answer(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        with _told(self._gateway):
            response, pieces = self._send(method, path, body)
            whole = b""
            for piece in pieces:
                whole += piece
                if len(whole) > MAX_BODY:
                    raise Failed(f"the answer is longer than {MAX_BODY} bytes")
            return Answer(response.status, whole)

    def events(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[bytes]:
        splitter = Splitter()
        with _told(self._gateway):
            response, pieces = self._send(method, path, body)
            if response.status != 200:
                Answer(response.status, b"".join(pieces)).good()
            for piece in pieces:
                for event in splitter.feed(piece):
                    yield event.data

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> tuple[http.client.HTTPResponse, Iterator[bytes]]:
        """The head of the answer, and the pieces of its body as they come."""
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if self._gateway.key:
            headers["authorization"] = f"Bearer {self._gateway.key}"
        self._connection.connect()
        connected = self._connection.sock
        _check_pin(connected, self._gateway.trust.pins)
        connected.settimeout(self._left())
        text = None if body is None else json.dumps(body)
        self._connection.request(method, self._gateway.url.path + path, text, headers)
        response = self._connection.getresponse()
        return response, self._pieces(response, connected)

    def _pieces(
        self, response: http.client.HTTPResponse, connected: socket.socket
    ) -> Iterator[bytes]:
        piece, missing = b"-", response.length or 0
        while piece:  # isclosed() stays false behind a body that has a length
            connected.settimeout(self._left())
            piece = response.read1(PIECE)
            missing -= len(piece)
            if self._endless:
                self._deadline = monotonic() + self._gateway.patience
            yield piece
        if missing > 0:  # read1() does not tell
            raise http.client.IncompleteRead(b"", missing)

    def _left(self) -> float:
        left = self._deadline - monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _connection(gateway: Gateway) -> http.client.HTTPConnection:
    host, port = gateway.url.hostname or "", gateway.url.port
    timeout = min(CONNECT, gateway.patience)
    if gateway.url.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=timeout)
    return http.client.HTTPSConnection(
        host, port, timeout=timeout, context=_security(gateway.trust)
    )


def _security(trust: Trust) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=trust.ca)
    except OSError as error:
        raise Failed(f"{trust.ca}: {error.strerror or 'no certificate in PEM'}") from None
    if trust.pins:  # the key is looked at instead, before anything is sent
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _check_pin(connected: socket.socket, pins: tuple[str, ...]) -> None:
    if pins and isinstance(connected, ssl.SSLSocket):
        pin = pin_of_der(connected.getpeercert(binary_form=True) or b"")
        if pin not in pins:
            raise Failed(f"its key is not the one that is pinned, but {pin}")


@contextmanager
def _told(gateway: Gateway) -> Iterator[None]:
    """Tell what can go wrong with a connection in one line."""
    try:
        yield
    except TimeoutError:
        raise Failed(f"no whole answer within {gateway.patience:g} s") from None
    except BrokenStream as error:
        raise Failed(str(error)) from None
    except http.client.IncompleteRead as error:
        missing = f", {error.expected} bytes before its end" if error.expected else ""
        raise Failed(f"the answer broke off{missing}") from None
    except ssl.SSLCertVerificationError as error:
        cure = "name its CA with --ca or $ROLEMESH_CA, or its key with --pin or $ROLEMESH_PIN"
        raise Failed(f"its certificate is not trusted: {error.verify_message}; {cure}") from None
    except (OSError, http.client.HTTPException) as error:
        told = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
        told += _hint(error, gateway.url.scheme)
        raise Failed(f"{gateway.url.netloc.rpartition('@')[2]}: {told}") from None


def _hint(error: Exception, scheme: str) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "; is a gateway running there?"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "; it does not speak TLS there: write http://"
    if isinstance(error, http.client.RemoteDisconnected) and scheme == "http":
        return "; if it speaks TLS there, write https://"
    return ""
