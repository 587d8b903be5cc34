"""Requests as bytes, good and bad, by name; bad ones with the code that refuses them."""

_POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: gw\r\n"


def _get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


def _chunked(body: bytes) -> bytes:
    return _POST + b"Transfer-Encoding: chunked\r\n\r\n" + body


GOOD: dict[str, bytes] = {
    "plain GET": _get(b"Host: gw"),
    "port": _get(b"Host: gw:8000"),
    "IPv6 host": _get(b"Host: [::1]:8000"),
    "underscore in host": _get(b"Host: rolemesh_gateway:8000"),
    "HTTP/1.0 without Host": _get(line=b"GET / HTTP/1.0"),
    "query": _get(b"Host: gw", line=b"GET /v1/models?x=%2F&y=%ff HTTP/1.1"),
    "escaped path": _get(b"Host: gw", line=b"GET /v1/models/qwen%2Fcoder%20%C3%A9 HTTP/1.1"),
    "absolute target": _get(b"Host: gw:80", line=b"GET http://GW:80/v1/models HTTP/1.1"),
    "empty value": _get(b"Host: gw", b"X-Empty:"),
    "tabs around value": _get(b"Host:\t gw \t"),
    "obs-text value": _get(b"Host: gw", b"X-Name: J\xc3\xbcrgen"),
    "repeated field": _get(b"Host: gw", b"Accept: a", b"Accept: b"),
    "token characters": _get(b"Host: gw", b"!#$%&'*+.^`|~9-Z: 1"),
    "close": _get(b"Host: gw", b"Connection: close"),
    "empty body": _POST + b"Content-Length: 0\r\n\r\n",
    "body": _POST + b"Content-Length: 5\r\n\r\nhello",
    "leading zeros": _POST + b"Content-Length: 005\r\n\r\nhello",
    "binary body": _POST + b"Content-Length: 6\r\n\r\n\x00\r\n\r\n\xff",
    "body of HTTP/1.0": b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi",
    "body on GET": _get(b"Host: gw", b"Content-Length: 2") + b"hi",
    "chunks": _chunked(b"5\r\nhello\r\n00A\r\n, 10 bytes\r\n0\r\n\r\n"),
    "chunk extension": _chunked(b'5;a="b c";d\r\nhello\r\n0;last\r\n\r\n'),
    "no chunks": _chunked(b"0\r\n\r\n"),
    "TE in capitals": _POST + b"transfer-encoding: Chunked\r\n\r\n0\r\n\r\n",
}

_SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"

BAD: dict[str, tuple[str, bytes]] = {
    # C16: two ways to see where the body ends
    "C16 CL.TE": (
        "bad_request",
        _POST + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n" + _SMUGGLED,
    ),
    "C16 TE.CL": (
        "bad_request",
        _POST + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n" + _SMUGGLED,
    ),
    "C16 two CL": (
        "bad_request",
        _POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    ),
    "C16 two equal CL": (
        "bad_request",
        _POST + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    ),
    "C16 CL list": ("bad_request", _POST + b"Content-Length: 5, 5\r\n\r\nhello"),
    "C16 CL plus": ("bad_request", _POST + b"Content-Length: +4\r\n\r\nhell"),
    "C16 CL minus": ("bad_request", _POST + b"Content-Length: -1\r\n\r\n"),
    "C16 CL underscore": ("bad_request", _POST + b"Content-Length: 4_0\r\n\r\n"),
    "C16 CL hex": ("bad_request", _POST + b"Content-Length: 0x5\r\n\r\nhello"),
    "C16 CL empty": ("bad_request", _POST + b"Content-Length:\r\n\r\n"),
    "C16 CL 10^30": ("bad_request", _POST + b"Content-Length: 1" + b"0" * 30 + b"\r\n\r\n"),
    "C16 CL long zeros": ("bad_request", _POST + b"Content-Length: " + b"0" * 30 + b"5\r\n\r\n"),
    "C16 xchunked": ("bad_request", _POST + b"Transfer-Encoding: xchunked\r\n\r\n" + _SMUGGLED),
    "C16 TE twice": (
        "bad_request",
        _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + _SMUGGLED,
    ),
    "C16 TE list": (
        "bad_request",
        _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _SMUGGLED,
    ),
    "C16 TE with VT": (
        "bad_request",
        _POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n" + _SMUGGLED,
    ),
    "C16 space before colon": ("bad_request", _POST + b"Content-Length : 5\r\n\r\nhello"),
    # C17: what Twisted alone accepts
    "C17 obs-fold": ("bad_request", _get(b"Host: gw", b"X-A: 1", b" 2")),
    "C17 obs-fold with tab": ("bad_request", _get(b"Host: gw", b"X-A: 1", b"\t2")),
    "C17 folded TE": (
        "bad_request",
        _POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n" + _SMUGGLED,
    ),
    "C17 first field folded": ("bad_request", _get(b" Host: gw")),
    "C17 TE identity with CL": (
        "bad_request",
        _POST + b"Transfer-Encoding: identity\r\nContent-Length: 5\r\n\r\nhello",
    ),
    "C17 TE identity": ("bad_request", _POST + b"Transfer-Encoding: identity\r\n\r\n"),
    "C17 TE on HTTP/1.0": (
        "bad_request",
        b"POST / HTTP/1.0\r\nHost: gw\r\nTransfer-Encoding: chunked\r\n\r\n" + _SMUGGLED,
    ),
    "C17 no Host": ("bad_request", _get(b"X-A: 1")),
    "C17 no field at all": ("bad_request", _get()),
    "C17 two Hosts": ("bad_request", _get(b"Host: a", b"Host: a")),
    "C17 two Hosts on HTTP/1.0": (
        "bad_request",
        _get(b"Host: a", b"Host: b", line=b"GET / HTTP/1.0"),
    ),
    "C17 empty Host": ("bad_request", _get(b"Host:")),
    "C17 Host with user": ("bad_request", _get(b"Host: me@gw")),
    "C17 Host with path": ("bad_request", _get(b"Host: gw/x")),
    "C17 Host with space": ("bad_request", _get(b"Host: g w")),
    "C17 Host list": ("bad_request", _get(b"Host: a, b")),
    "C17 absolute target is not Host": (
        "bad_request",
        _get(b"Host: a", line=b"GET http://b/ HTTP/1.1"),
    ),
    "C17 absolute target without Host": (
        "bad_request",
        _get(line=b"GET http://b/ HTTP/1.0"),
    ),
    "C17 CONNECT": ("bad_request", _get(b"Host: gw:443", line=b"CONNECT gw:443 HTTP/1.1")),
    "C17 asterisk": ("bad_request", _get(b"Host: gw", line=b"OPTIONS * HTTP/1.1")),
    # C15, C20: what is not a head at all
    "C15 NUL in value": ("bad_request", _get(b"Host: gw", b"X-A: 1\x002")),
    "C15 bare CR in value": ("bad_request", _get(b"Host: gw", b"X-A: 1\r2")),
    "C15 bare LF in value": ("bad_request", _get(b"Host: gw", b"X-A: 1\nX-B: 2")),
    "C15 bell in value": ("bad_request", _get(b"Host: gw", b"X-A: \x07")),
    "C15 DEL in value": ("bad_request", _get(b"Host: gw", b"X-A: \x7f")),
    "C15 bare LF ends request line": (
        "bad_request",
        b"GET / HTTP/1.1\nHost: gw\r\n\r\n",
    ),
    "C20 TLS hello": ("bad_request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "C20 long garbage": ("bad_request", b"\x16" + b"a" * 17000),
    "C20 SOCKS5": ("bad_request", b"\x05\x01\x00"),
    "C20 HTTP/2 preface": ("bad_request", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "C20 empty line first": ("bad_request", b"\r\n" + _get(b"Host: gw")),
    "C20 HTTP/0.9": ("bad_request", b"GET /\r\n\r\n"),
    "C20 HTTP/1.2": ("bad_request", _get(b"Host: gw", line=b"GET / HTTP/1.2")),
    "C20 HTTP/2.0": ("bad_request", _get(b"Host: gw", line=b"GET / HTTP/2.0")),
    "C20 http/1.1": ("bad_request", _get(b"Host: gw", line=b"GET / http/1.1")),
    "C20 two spaces": ("bad_request", _get(b"Host: gw", line=b"GET  / HTTP/1.1")),
    "C20 space in target": ("bad_request", _get(b"Host: gw", line=b"GET /a b HTTP/1.1")),
    "C20 trailing space": ("bad_request", _get(b"Host: gw", line=b"GET / HTTP/1.1 ")),
    "C20 tab in request line": ("bad_request", _get(b"Host: gw", line=b"GET\t/ HTTP/1.1")),
    "C20 method in lower case": ("bad_request", _get(b"Host: gw", line=b"get / HTTP/1.1")),
    "C20 fragment": ("bad_request", _get(b"Host: gw", line=b"GET /a#b HTTP/1.1")),
    "C20 high byte in target": ("bad_request", _get(b"Host: gw", line=b"GET /\xe9 HTTP/1.1")),
    "C20 escaped path not UTF-8": ("bad_request", _get(b"Host: gw", line=b"GET /%ff HTTP/1.1")),
    "C20 escaped NUL": ("bad_request", _get(b"Host: gw", line=b"GET /a%00 HTTP/1.1")),
    "C20 no colon": ("bad_request", _get(b"Host: gw", b"nonsense")),
    "C20 no name": ("bad_request", _get(b"Host: gw", b": value")),
    "C20 name with bracket": ("bad_request", _get(b"Host: gw", b"X(A): 1")),
    "C20 name not ASCII": ("bad_request", _get(b"Host: gw", b"X\xe9: 1")),
    # C21: heads without end
    "C21 101 fields": ("headers_too_large", _get(b"Host: gw", *([b"A: b"] * 100))),
    "C21 long head": ("headers_too_large", _get(b"Host: gw", b"A: " + b"b" * 16384)),
    "C21 long line": ("headers_too_large", b"GET /" + b"a" * 17000),
    # P16: chunks that are none
    "P16 chunk size missing": ("bad_request", _chunked(b"\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size 0x": ("bad_request", _chunked(b"0x5\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size plus": ("bad_request", _chunked(b"+5\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size minus": ("bad_request", _chunked(b"-5\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size underscore": ("bad_request", _chunked(b"1_0\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size with space": ("bad_request", _chunked(b"5 \r\nhello\r\n0\r\n\r\n")),
    "P16 chunk size of 16 digits": (
        "bad_request",
        _chunked(b"0000000000000005\r\nhello\r\n0\r\n\r\n"),
    ),
    "P16 chunk too long": ("bad_request", _chunked(b"4\r\nhello\r\n0\r\n\r\n")),
    "P16 chunk ends in LF": ("bad_request", _chunked(b"5\r\nhello\n0\r\n\r\n")),
    "P16 size ends in LF": ("bad_request", _chunked(b"5\nhello\r\n0\r\n\r\n")),
    "P16 NUL in extension": ("bad_request", _chunked(b"5;\x00\r\nhello\r\n0\r\n\r\n")),
    "P16 CR in extension": ("bad_request", _chunked(b"5;\r;\r\nhello\r\n0\r\n\r\n")),
    "P16 long extension": (
        "bad_request",
        _chunked(b"5;" + b"a" * 300 + b"\r\nhello\r\n0\r\n\r\n"),
    ),
    "P16 trailer": ("bad_request", _chunked(b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n")),
    # C7: declared or counted, too large
    "C7 CL over the limit": ("request_too_large", _POST + b"Content-Length: 9000000\r\n\r\n"),
    "C7 chunk over the limit": ("request_too_large", _chunked(b"ffffffff\r\nhello")),
    "C7 chunk of 60 bits": ("request_too_large", _chunked(b"fffffffffffffff\r\nhello")),
}
