"""A request as the web code sees it, its refusals, and the end of an answer that broke."""

from io import BytesIO
from typing import Any

import msgspec
from twisted.python.failure import Failure
from twisted.web import http, server

from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord
from rolemesh.gateway.framing import Head


class EdgeRequest(server.Request):
    """A request with an id and its body in memory; its answers have no banner and no HTML.

    Each answer carries `request_id` as `x-request-id`. `key` is that of a client which was let in
    before the body came; None says nothing about a client. `longest_body` is in bytes, None for
    as much as the edge takes of anybody.
    """

    defaultContentType = None
    content: BytesIO
    channel: Any  # the EdgeChannel, None once the client has gone
    request_id = ""
    key: KeyRecord | None = None
    longest_body: int | None = None

    def begin(self, head: Head, request_id: str) -> None:
        """Take over what the head says, before the body comes."""
        self.method, self.uri, self.path = head.method, head.target, head.path
        self.clientproto = head.version
        self.requestHeaders = head.headers
        self.request_id = request_id
        self.responseHeaders.setRawHeaders(_id_header(head.path), [request_id.encode()])
        self.responseHeaders.setRawHeaders(b"x-request-id", [request_id.encode()])
        self.responseHeaders.setRawHeaders(b"x-content-type-options", [b"nosniff"])
        self.responseHeaders.setRawHeaders(b"cache-control", [b"no-store"])
        self.content = BytesIO()

    def body_within(self, most: int, what: str) -> bytes:
        """The body, of at most so many bytes; `what` begins the sentence that says so.

        :raises Refusal: `request_too_large`.
        """
        body = self.content.read(most + 1)
        if len(body) > most:
            raise Refusal("request_too_large", f"{what} at most {most} bytes.")
        return body

    def as_json(self, value: Any) -> bytes:
        """`value` as the body of the answer, whose head says so."""
        self.setHeader(b"content-type", b"application/json")
        return msgspec.json.encode(value)

    def render(self, resrc: Any) -> None:
        """Render `resrc`, without the banner that Twisted has just set."""
        self.responseHeaders.removeHeader(b"server")
        super().render(resrc)

    def as_refusal(self, refusal: Refusal) -> bytes:
        """`refusal` as the body of the answer, in the shape of its route; the head says so."""
        self.setResponseCode(refusal.status, refusal.phrase.encode())
        for name, value in refusal.headers().items():
            self.setHeader(name, value)
        self.setHeader(b"content-type", b"application/json")
        return _refusal_body(refusal, self.path, self.request_id)

    def answer_refusal(self, refusal: Refusal) -> None:
        """Answer with `refusal`, and finish."""
        body = self.as_refusal(refusal)
        self.setHeader(b"content-length", b"%d" % len(body))
        self.write(body)
        self.finish()

    def processingFailed(self, reason: Failure) -> Failure:
        """What is left when nobody handled a failure: say so, or break off what was begun."""
        self._log.failure("request {id} failed", failure=reason, id=self.request_id)
        if self.startedWriting:
            end_unfinished(self)
        else:
            self.answer_refusal(Refusal("internal_error", "the gateway failed; its log says why"))
        return reason


def _id_header(path: bytes) -> bytes:
    """Where clients of `path` look for a request's id; it is sent under our own name as well."""
    return b"request-id" if path.startswith(b"/v1/messages") else b"x-request-id"


def _refusal_body(refusal: Refusal, path: bytes, request_id: str) -> bytes:
    """`refusal` in the shape that clients of `path` read."""
    if path.startswith(b"/v1/messages"):
        return refusal.anthropic_body(request_id)
    return refusal.openai_body()


def whole_refusal(refusal: Refusal, path: bytes, request_id: str) -> bytes:
    """A whole response, head and body, that ends its connection with `refusal`."""
    body = _refusal_body(refusal, path, request_id)
    fields = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        "connection": "close",
        _id_header(path).decode(): request_id,
        "x-request-id": request_id,
        "x-content-type-options": "nosniff",
        "cache-control": "no-store",
        **refusal.headers(),
    }
    lines = [f"{name}: {value}" for name, value in fields.items()]
    head = [f"HTTP/1.1 {refusal.status} {refusal.phrase}", *lines, "", ""]
    return "\r\n".join(head).encode() + body


def end_unfinished(request: http.Request, event: bytes | None = None) -> None:
    """Break a begun answer off after `event`, so that no client can take it for a whole one.

    Without its last chunk, or short of its length, the answer ends in FIN, which a reset must not
    overtake. Where only the FIN would mark its end (HTTP/1.0) and no event says that it broke, the
    connection is reset. What is written later, and Klein's `finish()`, goes nowhere.
    """
    channel = getattr(request, "channel", None)
    if channel is None:  # the client has gone, or has the whole answer
        return
    if event is not None:
        request.write(event)
    delimited = request.chunked or request.responseHeaders.hasHeader(b"content-length")
    request.write = request.finish = _nowhere  # type: ignore[method-assign]
    request.unregisterProducer()
    if delimited or event is not None:
        channel.loseConnection()
    else:
        channel.transport.abortConnection()


def _nowhere(_: bytes = b"") -> None:
    pass
