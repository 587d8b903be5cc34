"""Tests for rolemesh.gateway.framing, against h11 as a second strict reader."""

import h11
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.gateway.framing import ChunkedBody, Head, SizedBody, read_head
from tests.gateway.http_corpus import BAD, GOOD

MOST_BODY = 8 * 1024 * 1024
DAMAGE = [
    *(b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"_", b"0", b"9", b";", b",", b"\xff"),
    *(b"chunked", b"GET ", b"%00", b"/", b"x", b"http://b", b"\r\n ", b"\r\nHost: b"),
    *(b"\r\nContent-Length: 1", b"\r\nTransfer-Encoding: chunked"),
]


def read(raw: bytes) -> tuple[Head, bytes] | None:
    """The head and body that we read from `raw`; None while it is not whole."""
    block, end, rest = raw.partition(b"\r\n\r\n")
    if not end:
        return None
    head = read_head(block, 100)
    if head.length == 0:
        return head, b""
    parts: list[bytes] = []
    if head.length is None:
        after = ChunkedBody(MOST_BODY, parts.append).feed(rest)
    else:
        after = SizedBody(head.length, parts.append).feed(rest)
    return None if after is None else (head, b"".join(parts))


def read_with_h11(raw: bytes) -> tuple[h11.Request, bytes]:
    """What h11 reads from `raw`; raises where it refuses, or waits for more."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(raw)
    request = connection.next_event()
    assert isinstance(request, h11.Request), request
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert isinstance(event, h11.Data), event
        body += bytes(event.data)
    return request, body


def fields_of(head: Head) -> list[tuple[bytes, bytes]]:
    raw = head.headers.getAllRawHeaders()
    return sorted((name.lower(), value) for name, values in raw for value in values)


def fields_of_h11(request: h11.Request) -> list[tuple[bytes, bytes]]:
    return sorted((name, value) for name, value in request.headers if b"_" not in name)


class AgreementTests(SynchronousTestCase):
    """One reading of the bytes, whoever reads them."""

    def assert_agreed(self, raw: bytes, what: str) -> None:
        ours = read(raw)
        assert ours is not None, what
        head, body = ours
        request, their_body = read_with_h11(raw)
        self.assertEqual(request.method, head.method, what)
        self.assertEqual(b"HTTP/" + request.http_version, head.version, what)
        self.assertIn(request.target, (head.target, b"http://GW:80" + head.target), what)
        ours_lower = [(name, value.lower()) for name, value in fields_of(head)]
        theirs_lower = [(name, value.lower()) for name, value in fields_of_h11(request)]
        self.assertEqual(theirs_lower, ours_lower, what)
        self.assertEqual(their_body, body, what)

    def test_P16_good_requests_are_read_as_h11_reads_them(self) -> None:
        """Each request of the good corpus means to us what it means to h11."""
        for name, raw in GOOD.items():
            self.assert_agreed(raw, name)

    @settings(max_examples=400, derandomize=True, deadline=None)
    @given(
        st.sampled_from(sorted(GOOD)),
        st.lists(
            st.tuples(
                st.integers(0, 200),
                st.integers(0, 2),
                st.sampled_from(DAMAGE),
            ),
            min_size=1,
            max_size=3,
        ),
    )
    def test_P16_what_we_accept_h11_accepts_alike(
        self, name: str, edits: list[tuple[int, int, bytes]]
    ) -> None:
        """A damaged request is refused, or read exactly as h11 reads it."""
        raw = GOOD[name]
        for at, gone, new in edits:
            raw = raw[:at] + new + raw[at + gone :]
        try:
            whole = read(raw)
        except Refusal:
            return
        if whole is not None and b"http://" not in raw:
            self.assert_agreed(raw, repr(raw))

    def test_P16_bad_requests_are_refused(self) -> None:
        """Each request of the bad corpus whose fault the parser can see is refused by it."""
        for name, (code, raw) in BAD.items():
            if b"\r\n\r\n" in raw and code == "bad_request":
                refusal = self.assertRaises(Refusal, read, raw)
                self.assertEqual("bad_request", refusal.code, name)


class HeadTests(SynchronousTestCase):
    def test_C18_names_with_underscores_are_left_out(self) -> None:
        """A field that could pass for another behind a CGI-like mapping does not get in."""
        raw = b"GET / HTTP/1.1\r\nHost: gw\r\nContent_Length: 5\r\nX_A: 1\r\nX-A: 2"
        self.assertEqual([(b"host", b"gw"), (b"x-a", b"2")], fields_of(read_head(raw, 100)))

    def test_C21_number_of_fields(self) -> None:
        """As many fields as allowed are taken, one more is headers_too_large."""
        raw = b"GET / HTTP/1.1\r\nHost: gw\r\nA: b\r\nA: c"
        self.assertEqual([b"b", b"c"], read_head(raw, 3).headers.getRawHeaders(b"a"))
        self.assertEqual("headers_too_large", self.assertRaises(Refusal, read_head, raw, 2).code)

    def test_a_refusal_says_which_field(self) -> None:
        """The message counts the fields, so that the bad one is found."""
        raw = b"GET / HTTP/1.1\r\nHost: gw\r\nX-A: 1\r\nX B: 2\r\nX-C: 3"
        self.assertIn("field 3 ", self.assertRaises(Refusal, read_head, raw, 100).message)

    def test_what_persists(self) -> None:
        """Only HTTP/1.1 without close, wherever it stands in Connection, goes on."""
        for line, field, persists in (
            (b"1.1", b"X: y", True),
            (b"1.1", b"Connection: keep-alive", True),
            (b"1.1", b"Connection: TE, Close", False),
            (b"1.1", b"Connection: TE\r\nConnection: close", False),
            (b"1.0", b"Connection: keep-alive", False),
        ):
            head = read_head(b"GET / HTTP/" + line + b"\r\nHost: gw\r\n" + field, 100)
            self.assertEqual(persists, head.persists(), (line, field))


class ChunkedBodyTests(SynchronousTestCase):
    def test_C7_limit_is_exact_and_nothing_over_it_is_kept(self) -> None:
        """A body of the limit passes; the chunk that would pass it is refused by its size alone."""
        kept: list[bytes] = []
        body = ChunkedBody(8, kept.append)
        self.assertIsNone(body.feed(b"5\r\nhello\r\n3\r\nabc\r\n"))
        self.assertEqual("request_too_large", self.assertRaises(Refusal, body.feed, b"1\r\n").code)
        self.assertEqual(b"helloabc", b"".join(kept))

    def test_what_follows_is_returned(self) -> None:
        """The bytes after the last chunk belong to the next request."""
        self.assertEqual(b"GET", ChunkedBody(9, len).feed(b"1\r\na\r\n0\r\n\r\nGET"))
