"""Keys and tokens: how one is made, read, and known again by its hash alone."""

import re
from base64 import b32encode, urlsafe_b64encode
from collections.abc import Iterable
from enum import StrEnum
from hashlib import sha256
from hmac import compare_digest
from typing import Literal

from attrs import evolve, field, frozen

from rolemesh.core.addresses import Address, Network

LEEWAY = 60.0  # seconds
LONGEST = 128  # characters of a presented key
ID_BYTES, SECRET_BYTES = 5, 32
ENTROPY = ID_BYTES + SECRET_BYTES  # bytes of randomness that a new key takes
LIVE_SECRETS = 2  # of one key: the new one, and until its time the one that it replaces

_FORMAT = re.compile(r"(?P<id>(?:rmk|rmn|rma|rmj)_[a-z2-7]{8})_[A-Za-z0-9_-]{43}")


class KeyKind(StrEnum):
    """What a key opens, and how its text begins."""

    CLIENT = "rmk"
    NODE = "rmn"
    ADMIN = "rma"
    INVITE = "rmj"


class Scope(StrEnum):
    """A group of routes."""

    CHAT = "chat"
    MODELS = "models"
    REGISTER = "register"
    ADMIN = "admin"


SCOPES = {
    KeyKind.CLIENT: (Scope.CHAT, Scope.MODELS),
    KeyKind.NODE: (Scope.REGISTER,),
    KeyKind.ADMIN: (Scope.ADMIN,),
    KeyKind.INVITE: (),
}


@frozen
class Secret:
    """The SHA-256 of one key's whole text, and the Unix time at which it ends, if it does."""

    hash: bytes = field(repr=False)
    until: float | None = None

    def live(self, now: float) -> bool:
        return self.until is None or now < self.until


@frozen
class KeyRecord:
    """What is kept of a key: who may do what with it, and never its text.

    `id` begins with the kind (`rmk_ab23cd45`); `roles` is `*` or names, and none of them means
    none; `node` is the one node that a node token speaks for; no `networks` means from anywhere;
    times are Unix seconds. `disabled` is what revoking sets. `rpm` are requests a minute,
    `concurrency` those under way at once, `tokens_per_day` is for a day of UTC; None is no limit.
    """

    id: str
    secrets: tuple[Secret, ...]
    name: str = ""
    roles: Literal["*"] | tuple[str, ...] = ()
    scopes: tuple[Scope, ...] = ()
    node: str | None = None
    networks: tuple[Network, ...] = ()
    created: float = 0.0
    not_before: float | None = None
    expires_at: float | None = None
    disabled: bool = False
    note: str = ""
    rpm: int | None = None
    concurrency: int | None = None
    tokens_per_day: int | None = None

    @property
    def limited(self) -> bool:
        return (self.rpm, self.concurrency, self.tokens_per_day) != (None, None, None)

    @property
    def kind(self) -> KeyKind:
        return KeyKind(self.id.partition("_")[0])

    def live(self, now: float) -> bool:
        """Two machines' clocks may differ by `LEEWAY`."""
        started = self.not_before is None or self.not_before - LEEWAY <= now
        ended = self.expires_at is not None and self.expires_at + LEEWAY <= now
        return started and not ended and not self.disabled

    def allows(self, role: str) -> bool:
        return self.roles == "*" or role in self.roles

    def welcomes(self, address: Address | None) -> bool:
        """Whether the key may be used from an address; None is one that is not known."""
        if not self.networks:
            return True
        return address is not None and any(address in network for network in self.networks)


def mint(kind: KeyKind, entropy: bytes, now: float) -> tuple[str, KeyRecord]:
    """A new key's text, to be shown once, and its record, which allows nothing yet.

    :param entropy: `ENTROPY` random bytes.
    """
    if len(entropy) != ENTROPY:
        raise ValueError(f"a key takes {ENTROPY} random bytes, not {len(entropy)}")
    key_id = f"{kind.value}_{b32encode(entropy[:ID_BYTES]).decode().lower()}"
    text = _text(key_id, entropy[ID_BYTES:])
    return text, KeyRecord(key_id, (Secret(_hash(text)),), scopes=SCOPES[kind], created=now)


def rotate(record: KeyRecord, entropy: bytes, now: float, overlap: float) -> tuple[str, KeyRecord]:
    """A new text for a key, whose present one works on for `overlap` seconds; older ones end.

    :param entropy: `SECRET_BYTES` random bytes.
    """
    text = _text(record.id, entropy)
    ending = evolve(record.secrets[0], until=now + overlap)
    return text, evolve(record, secrets=(Secret(_hash(text)), ending))


def revoke(record: KeyRecord) -> KeyRecord:
    """The record of a key that opens nothing any more."""
    return evolve(record, disabled=True)


def read_id(text: str | None) -> str | None:
    """The id in a presented text that has a key's form, else None."""
    found = _FORMAT.fullmatch(text) if text and len(text) <= LONGEST else None
    return found["id"] if found else None


class KeyRing:
    """The records of one store, each id once, among which a presented text is looked for."""

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self._records = {record.id: record for record in records}

    def __len__(self) -> int:
        return len(self._records)

    def __contains__(self, id: str) -> bool:
        return id in self._records

    def get(self, id: str) -> KeyRecord | None:
        """The record of an id, live or not."""
        return self._records.get(id)

    def check(self, text: str | None, now: float) -> KeyRecord | None:
        """The live record of a presented text; None for none, malformed, unknown, wrong, expired
        and disabled alike, after the same work."""
        key_id = read_id(text)
        record = self._records.get(key_id or _NOBODY.id, _NOBODY)
        digest = _hash(text if text and key_id else _NO_TEXT)
        matches = [
            compare_digest(digest, secret.hash) & secret.live(now) for secret in _two(record)
        ]
        return record if any(matches) & record.live(now) else None


def _two(record: KeyRecord) -> tuple[Secret, ...]:
    """A record's secrets, made up to two, so that one and two take the same time."""
    return (record.secrets + _NOBODY.secrets)[:LIVE_SECRETS]


def _hash(text: str) -> bytes:
    return sha256(text.encode()).digest()


def _text(key_id: str, secret: bytes) -> str:
    return f"{key_id}_{urlsafe_b64encode(secret).decode().rstrip('=')}"


_NO_TEXT = "rmk_________" + "_" * 44
_NOBODY = KeyRecord("rmk_", (Secret(bytes(32)),) * LIVE_SECRETS, disabled=True)
