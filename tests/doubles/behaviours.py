"""Every way in which the double can fail, by name: rows of canned bytes, and spoilt true answers.

A name may carry an argument, `die-rst:3`. Rows are named by their ids in the fault catalogue.
"""

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, repeat

from attrs import field, frozen

from tests.doubles import wire
from tests.doubles.alarms import Alarms
from tests.doubles.model import Chat, Tally
from tests.doubles.reply import Call, Connection, Ending, Reply, tells_progress
from tests.doubles.wire import chunk, error, event, json_answer, stream_head

Pieces = Callable[[str], Iterable[bytes]]

MIB = 2**20
CHAT = Chat("chatcmpl-canned", "tiny")
WHOLE = wire.encode(CHAT.whole(" green to token", "stop", Tally(25, 0, 3, 1.0, 1.0)))
WORD = wire.encode(CHAT.word(" green"))
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}
CUDA = "CUDA error: an illegal memory access was encountered in ggml_backend_cuda_synchronize"
MISSING = "failed to open /srv/models/secret-model.gguf"
TOO_LONG = error(
    400,
    "exceed_context_size_error",
    "request (3019 tokens) exceeds the available context size (2048 tokens), try increasing it",
    n_prompt_tokens=3019,
    n_ctx=2048,
)
LOGIN = b"<html><body>Please <a href='/login'>log in</a></body></html>"


@frozen
class Canned:
    """Bytes sent whatever was asked, `every` seconds a piece, and how the connection is left."""

    pieces: Pieces
    ending: Ending = Ending.FIN
    every: float = 0.0


def _bytes(*pieces: bytes) -> Pieces:
    return lambda _: pieces


def _refusal(status: int, kind: str, message: str, more: str = "") -> Canned:
    return Canned(_bytes(json_answer(status, error(status, kind, message), wire.CLOSE, more)))


def _whole(headers: str, body: bytes = WHOLE) -> bytes:
    return wire.head(200, f"Content-Type: {wire.JSON}\r\n{headers}") + body


def _length(count: int) -> str:
    return f"Content-Length: {count}\r\n"


def _gzipped(body: bytes) -> bytes:
    packed = gzip.compress(body)
    return _whole(f"Content-Encoding: gzip\r\n{_length(len(packed))}", packed)


def _endless(_: str) -> Iterator[bytes]:
    return chain([stream_head()], repeat(chunk(event(WORD))))


def _drip(whole: str) -> Iterator[bytes]:
    """As many whole events, then the next one a byte at a time."""
    drops = (chunk(drop) for drop in _single_bytes(event(WORD)))
    return chain([stream_head()], repeat(chunk(event(WORD)), int(whole or 0)), drops)


def _pings(whole: str) -> Iterator[bytes]:
    """As many events, then what llama-server says while its model says nothing."""
    return chain(
        [stream_head()], repeat(chunk(event(WORD)), int(whole or 0)), repeat(chunk(wire.PING))
    )


def _drip_body(_: str) -> Iterator[bytes]:
    return chain([_whole(_length(len(WHOLE)))[: -len(WHOLE)]], _single_bytes(WHOLE))


def _single_bytes(data: bytes) -> list[bytes]:
    return [data[n : n + 1] for n in range(len(data))]


def _redirect(target: str) -> Iterable[bytes]:
    headers = f"Location: {target or 'http://127.0.0.1:1/elsewhere'}\r\n{_length(0)}{wire.CLOSE}"
    return [wire.head(307, headers)]


def _many_headers(_: str) -> list[bytes]:
    filler = "".join(f"X-Filler-{n}: {n}\r\n" for n in range(200_000))
    return [_whole(filler + _length(len(WHOLE)))]


def _many_interim(_: str) -> list[bytes]:
    return [b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000 + _whole(_length(len(WHOLE)))]


_CHUNKED = "Transfer-Encoding: chunked\r\n"

CANNED: Mapping[str, Canned] = {
    # B3, B4
    "hang": Canned(_bytes(), Ending.HANG),
    "eof": Canned(_bytes()),
    "rst": Canned(_bytes(), Ending.RST),
    # B7
    "half-body": Canned(_bytes(_whole(_length(len(WHOLE)), WHOLE[:100]))),
    "half-body-rst": Canned(_bytes(_whole(_length(len(WHOLE)), WHOLE[:100])), Ending.RST),
    # B9
    "garbage": Canned(_bytes(bytes(range(256)) * 8)),
    "ssh-banner": Canned(_bytes(b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n")),
    "http-09": Canned(_bytes(b"<html>hello from 1991</html>\n")),
    # B10
    "long-header-line": Canned(_bytes(_whole(f"X-Long: {'x' * 20_000}\r\n{_length(len(WHOLE))}"))),
    "many-headers": Canned(_many_headers),
    "many-1xx": Canned(_many_interim),
    # B11
    "status": Canned(lambda status: [json_answer(status, WHOLE, wire.CLOSE)]),
    "no-reason": Canned(lambda _: [_whole(_length(len(WHOLE))).replace(b" OK", b"", 1)]),
    # B12
    "cl-and-te": Canned(_bytes(_whole(_length(5) + _CHUNKED, chunk(WHOLE) + wire.LAST_CHUNK))),
    "two-cl": Canned(_bytes(_whole(_length(len(WHOLE)) + _length(5)))),
    "surplus-body": Canned(_bytes(_whole(_length(len(WHOLE)), WHOLE + WHOLE)), Ending.KEEP),
    # B14
    "drip": Canned(_drip, Ending.HANG, 0.05),
    "pings": Canned(_pings, Ending.HANG, 0.05),
    "drip-body": Canned(_drip_body, Ending.HANG, 0.05),
    # B16, B17
    "loading": Canned(_bytes(json_answer(503, LOADING, wire.CLOSE))),
    "busy-429": _refusal(429, "rate_limit_error", "all slots are busy", "Retry-After: 1\r\n"),
    "busy-503": _refusal(503, "unavailable_error", "no slot available"),
    # B18, B19, B20, B21
    "cuda-error": _refusal(500, "server_error", CUDA),
    "bad-request": _refusal(400, "invalid_request_error", "Expected 'messages' to be an array"),
    "bad-request-path": _refusal(400, "invalid_request_error", MISSING),
    "unprocessable": _refusal(422, "invalid_request_error", "grammar is too deep"),
    "too-long": Canned(_bytes(json_answer(400, TOO_LONG, wire.CLOSE))),
    "unauthorized": _refusal(401, "authentication_error", "Invalid API Key"),
    "forbidden": _refusal(403, "permission_error", "not for you, sk-backend-key"),
    "redirect": Canned(_redirect),
    # B22, B23
    "gzip": Canned(_bytes(_gzipped(WHOLE))),
    "gzip-bomb": Canned(lambda _: [_gzipped(b" " * 20 * MIB)]),
    "endless": Canned(_endless),
    # B28
    "html": Canned(
        _bytes(wire.head(200, f"Content-Type: text/html\r\n{_length(len(LOGIN))}") + LOGIN)
    ),
    "html-stream": Canned(
        _bytes(stream_head(content_type="text/html") + chunk(LOGIN) + wire.LAST_CHUNK)
    ),
}


class Player:
    """Sends canned bytes, no faster than the client reads them."""

    def __init__(self, clock: Alarms, canned: Canned, reply: Reply) -> None:
        self._clock = clock
        self._canned = canned
        self._reply = reply
        self._pieces = iter(canned.pieces(reply.argument))
        reply.driver = self
        self._play()

    def resume(self) -> None:
        self._clock.callLater(0, self._play)

    def stop(self, *, left: bool) -> None:
        """Nothing to free; what is left is never played, since the reply is over."""

    def _play(self) -> None:
        if self._reply.paused or self._reply.over:
            return
        piece = next(self._pieces, None)
        if piece is None:
            self._reply.end(self._canned.ending, "cut")
        else:
            self._reply.write(piece)
            self._clock.callLater(self._canned.every, self._play)


class CutAfter(Reply):
    """Breaks off before event number `argument`, counted from 0 (B6, B14)."""

    def __init__(
        self, connection: Connection, call: Call, argument: str, ending: Ending, end: bytes = b""
    ) -> None:
        super().__init__(connection, call, argument)
        self._ending, self._end = ending, end

    def event(self, data: bytes) -> None:
        if tells_progress(data) or self.call.events < int(self.argument or 0):
            super().event(data)
        else:
            self.write(self._end)
            self.end(self._ending, "cut")


class NoDone(Reply):
    """All events but `[DONE]` (B8)."""

    def event(self, data: bytes) -> None:
        if data != wire.DONE:
            super().event(data)


class NoDoneUnfinished(NoDone):
    """All events but `[DONE]`, and no last chunk."""

    def finish(self) -> None:
        self.end(Ending.FIN, "cut")


class FailsReused(Reply):
    """Answers a connection's first request; drops it without a byte when it is used again (B5)."""

    def write(self, data: bytes) -> None:
        if self.connection.served:
            self.end(Ending.FIN, "cut")
        else:
            super().write(data)


class Renamed(Reply):
    """Answers under another model's name (B29)."""

    model = "another-model.gguf"


class Unstreamed(Reply):
    """A whole answer although a stream was asked for."""

    streams = False


class Framed(Reply):
    """The same events in another dress (B25, B26)."""

    def __init__(
        self,
        connection: Connection,
        call: Call,
        argument: str,
        dress: Callable[[bytes], Iterable[bytes]],
    ) -> None:
        super().__init__(connection, call, argument)
        self._dress = dress

    def event(self, data: bytes) -> None:
        if tells_progress(data):
            super().event(data)
            return
        self.call.events += 1
        for piece in self._dress(data):
            self.write(chunk(piece))


DRESSES: Mapping[str, Callable[[bytes], Iterable[bytes]]] = {
    "crlf": lambda data: [b"data: %b\r\n\r\n" % data],
    "cr": lambda data: [b"data: %b\r\r" % data],
    "mixed-ends": lambda data: [b"data: %b\r\n\n" % data],
    "no-space": lambda data: [b"data:%b\n\n" % data],
    "comments": lambda data: [b": ping\n\n", event(data)],
    "named": lambda data: [b"event: message\n" + event(data)],
    "multi-line": lambda data: [event(data.replace(b",", b",\ndata: ", 1))],
    "split": lambda data: _single_bytes(event(data)),
    "accents": lambda data: _single_bytes(
        event(data.replace(b'"content":" ', '"content":" é'.encode()))
    ),
}


class Bom(Reply):
    """A byte order mark before the first event (B25)."""

    def open(self) -> None:
        super().open()
        self.write(chunk(b"\xef\xbb\xbf"))


@frozen
class Intruder:
    """What stands in a stream before event number `argument`, and whether the stream ends by it."""

    bytes: bytes = field(repr=False)
    ending: Ending | None = None


class Intruded(Reply):
    """A stream with something in it that does not belong there."""

    def __init__(
        self, connection: Connection, call: Call, argument: str, intruder: Intruder
    ) -> None:
        super().__init__(connection, call, argument)
        self._intruder = intruder

    def event(self, data: bytes) -> None:
        if self.call.events == int(self.argument or 0) and not tells_progress(data):
            self.write(self._intruder.bytes)
            if self._intruder.ending is not None:
                self.end(self._intruder.ending, "cut")
        super().event(data)


_ERROR_EVENT = wire.encode(error(500, "server_error", CUDA))
_TOO_LONG = wire.encode(TOO_LONG)
_BROKEN_UTF8 = WORD.replace(b" green", b" \xff\xfe\xc3(")
INTRUDERS: Mapping[str, Intruder] = {
    "bad-chunk": Intruder(b"zz\r\nnonsense\r\n", Ending.FIN),  # B13
    "truncated-chunk": Intruder(b"400\r\ndata: {", Ending.FIN),
    "giant-line": Intruder(chunk(b"data: " + b"x" * 2 * MIB), Ending.HANG),  # B24
    "non-json": Intruder(chunk(event(b"this is no JSON"))),  # B25
    "not-sse": Intruder(chunk(LOGIN + b"\n\n")),
    "invalid-utf8": Intruder(chunk(event(_BROKEN_UTF8))),  # B26
    "error-event": Intruder(chunk(event(_ERROR_EVENT)) + wire.LAST_CHUNK, Ending.FIN),  # B27
    "error-event-400": Intruder(chunk(event(_TOO_LONG)) + wire.LAST_CHUNK, Ending.FIN),
}

SPOILT: Mapping[str, Callable[..., Reply]] = {
    "normal": Reply,
    "fails-reused": FailsReused,
    "die-fin": partial(CutAfter, ending=Ending.FIN),
    "die-rst": partial(CutAfter, ending=Ending.RST),
    "die-clean": partial(CutAfter, ending=Ending.FIN, end=wire.LAST_CHUNK),
    "silent-after": partial(CutAfter, ending=Ending.HANG),
    "no-done": NoDone,
    "no-done-fin": NoDoneUnfinished,
    "wrong-model": Renamed,
    "unstreamed": Unstreamed,
    "bom": Bom,
    **{name: partial(Framed, dress=dress) for name, dress in DRESSES.items()},
    **{name: partial(Intruded, intruder=intruder) for name, intruder in INTRUDERS.items()},
}


@frozen
class Act:
    """One entry of a script: a behaviour for `times` requests, None for all that follow.

    `probes`: GETs meet it too, without being counted; else they are answered truly.
    """

    name: str
    argument: str = ""
    times: int | None = None
    probes: bool = False


def read_script(text: str) -> list[Act]:
    """Read `2*loading!,die-rst:3`: two requests and every probe refused, then the next behaviour.

    :raises ValueError: when a name is unknown; the text lists those that are known.
    """
    return [_act(part.strip()) for part in text.split(",")]


def _act(text: str) -> Act:
    times, star, rest = text.rpartition("*")
    name, _, argument = rest.removesuffix("!").partition(":")
    if name not in CANNED and name not in SPOILT:
        raise ValueError(
            f"no behaviour {name!r}; there are {', '.join(sorted({*CANNED, *SPOILT}))}"
        )
    return Act(name, argument, int(times) if star else None, rest.endswith("!"))
