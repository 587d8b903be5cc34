"""How deep JSON is nested, told from its brackets before anything that recurses reads it."""

from itertools import accumulate

_NO_BRACKET_OR_QUOTE = bytes(byte for byte in range(256) if byte not in b'[]{}"')
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def brackets(body: bytes) -> bytes:
    """The brackets of a JSON text that do not stand in its strings."""
    unescaped = body.replace(rb"\\", b"").replace(rb"\"", b"")
    marks = unescaped.translate(None, _NO_BRACKET_OR_QUOTE)
    return b"".join(marks.split(b'"')[::2])


def depth(marks: bytes) -> int:
    """How deep such brackets are nested; at least as deep as any valid beginning is."""
    return max(accumulate(map(_STEP.__getitem__, marks)), default=0)
