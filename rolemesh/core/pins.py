"""Pins: public keys that are trusted by their hash, whatever certificate they stand in."""

import re
from base64 import b64decode, b64encode
from hashlib import sha256

_SCHEME = "sha256:"
_SHAPE = re.compile(r"sha256:[A-Za-z0-9+/]{43}=")


def pin_of_key(spki: bytes) -> str:
    """The pin of a public key, which is given as its SubjectPublicKeyInfo in DER."""
    return _SCHEME + b64encode(sha256(spki).digest()).decode()


def read_pin(text: str) -> str:
    """A pin in its one spelling.

    :raises ValueError: when it is none.
    """
    pin = text.strip()
    if not _SHAPE.fullmatch(pin):
        raise ValueError("a pin is 'sha256:' and 44 characters of base64")
    return _SCHEME + b64encode(b64decode(pin.removeprefix(_SCHEME))).decode()
