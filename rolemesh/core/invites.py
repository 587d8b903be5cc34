"""Invitations: the one line by which a new box joins, and its exchange for a node's token.

An invite is a key like the others, kept by its hash among the node tokens, that opens nothing: it
is exchanged once. The box makes its token by itself and tells its hash alone, so that a lost
answer costs nothing (the same box may ask again) and the token does not travel.
"""

import re
import zlib
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Annotated, Literal

import msgspec
from attrs import evolve, frozen
from msgspec import Meta

from rolemesh.core.keys import SCOPES, KeyKind, KeyRecord, KeyRing, Secret, mint, read_id

VALID = 1800.0  # seconds, when nobody says otherwise
LONGEST_CODE = 4096  # characters

_PREFIX = "rmj_"
_COMMAND = "rolemeshjoin"  # what stands before it on the line of `invite`, without blanks
_CHECKED = 4  # bytes of a checksum, by which a damaged code is known


class BadCode(Exception):
    """A text that is no whole code; says why."""


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """What a code carries: where the gateway is, the node's name, the invite's own key, when that
    ends (Unix seconds), which roles the node's servers announce (none: each its own), and by which
    pin the gateway's certificate is known."""

    urls: tuple[str, ...]
    node: str
    key: str
    until: int
    roles: tuple[str, ...] = ()
    pin: str = ""

    def __repr__(self) -> str:
        return f"Invite({self.urls!r}, {self.node!r})"


def write_code(invite: Invite) -> str:
    """One word that carries an invite."""
    told = msgspec.msgpack.encode(invite)
    whole = told + _checksum(told)
    return _PREFIX + urlsafe_b64encode(whole).decode().rstrip("=")


def read_code(text: str) -> Invite:
    """The invite in a code, however a terminal or a mail has broken its line; the command before
    it may be copied too.

    :raises BadCode: when it is damaged, or none.
    """
    code = re.sub(r"\s", "", text).removeprefix(_COMMAND)
    if not code.startswith(_PREFIX) or len(code) > LONGEST_CODE:
        raise BadCode(f"a code begins with {_PREFIX} and is what `rolemesh invite` printed")
    try:
        whole = urlsafe_b64decode(code.removeprefix(_PREFIX) + "===")
        told, checksum = whole[:-_CHECKED], whole[-_CHECKED:]
        if _checksum(told) != checksum:
            raise ValueError
        return msgspec.msgpack.decode(told, type=Invite)
    except (ValueError, msgspec.MsgspecError):
        raise BadCode("the code is damaged or not whole: copy all of the line") from None


def _checksum(told: bytes) -> bytes:
    return zlib.crc32(told).to_bytes(_CHECKED, "big")


class TokenHash(msgspec.Struct, frozen=True):
    """What a box tells of the token that it made for itself: id, and SHA-256 in hexadecimal."""

    id: Annotated[str, Meta(pattern=r"^rmn_[a-z2-7]{8}\Z")]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]

    @property
    def digest(self) -> bytes:
        return bytes.fromhex(self.sha256)

    def __repr__(self) -> str:
        return f"TokenHash({self.id!r})"


class JoinRequest(msgspec.Struct, frozen=True):
    """The body of `POST /v1/nodes/join`."""

    invite: Annotated[str, Meta(max_length=128)]
    token: TokenHash

    def __repr__(self) -> str:
        return f"JoinRequest({self.token!r})"


class JoinAnswer(msgspec.Struct, frozen=True):
    """What a box may do from now on with its token."""

    node: str
    roles: Literal["*"] | tuple[str, ...]


def token_hash(text: str) -> TokenHash | None:
    """What to tell of a node's token; None when the text is none."""
    id = read_id(text)
    if id is None or not id.startswith(KeyKind.NODE.value):
        return None
    return TokenHash(id, sha256(text.encode()).hexdigest())


@frozen
class Joined:
    """What is to be kept after an exchange, and the node's token in it."""

    records: tuple[KeyRecord, ...]
    token: KeyRecord


def invited(records: Iterable[KeyRecord], invite: KeyRecord, now: float) -> tuple[KeyRecord, ...]:
    """All records with a new invite, in the place of one that is open for the same node."""
    kept = _without_ended(records, now)
    others = (each for each in kept if not (_is_open(each) and each.node == invite.node))
    return (*others, invite)


def new_invite(
    entropy: bytes, node: str, roles: Sequence[str], now: float, seconds: float
) -> tuple[str, KeyRecord]:
    """The text of an invite's key, and its record; no `roles` means all of them.

    :param entropy: as many random bytes as `mint` takes.
    """
    text, blank = mint(KeyKind.INVITE, entropy, now)
    record = evolve(
        blank,
        name=f"invite of {node} {blank.id[-4:]}",
        node=node,
        roles=tuple(roles) or "*",
        expires_at=now + seconds,
    )
    return text, record


def exchange(
    records: Sequence[KeyRecord], key: str | None, token: TokenHash, now: float
) -> Joined | None:
    """Spend an invite on a node's token; None when it is unknown, spent or over, all alike.

    Who asks again with the same token is told the same again, for as long as the invite would last.
    """
    # Spent ones are looked for as if they were open, so that both take the same time.
    invites = (evolve(each, disabled=False) for each in records if _is_invite(each))
    found = KeyRing(invites).check(key, now)
    invite = next((each for each in records if found and each.id == found.id), None)
    same = next((each for each in records if each.id == token.id), None)
    if invite is None:
        return None
    if invite.disabled or same:
        return _again(records, invite, same, token)
    fresh = _token_of(invite, token, records, now)
    spent = evolve(invite, disabled=True, note=f"used by {token.id}")
    kept = (spent if each is invite else each for each in _without_ended(records, now))
    return Joined((*kept, fresh), fresh)


def _again(
    records: Sequence[KeyRecord], invite: KeyRecord, same: KeyRecord | None, token: TokenHash
) -> Joined | None:
    used_for_it = same is not None and invite.note == f"used by {same.id}" and not same.disabled
    if same is None or not used_for_it or not compare_digest(same.secrets[0].hash, token.digest):
        return None
    return Joined(tuple(records), same)


def _token_of(
    invite: KeyRecord, token: TokenHash, records: Iterable[KeyRecord], now: float
) -> KeyRecord:
    node = invite.node or ""
    return KeyRecord(
        token.id,
        (Secret(token.digest),),
        name=_free_name(node, {each.name for each in records}),
        roles=invite.roles,
        scopes=SCOPES[KeyKind.NODE],
        node=node,
        created=now,
        note=f"joined by {invite.id}",
    )


def _free_name(name: str, taken: set[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name}-{number}", number + 1
    return free


def _without_ended(records: Iterable[KeyRecord], now: float) -> tuple[KeyRecord, ...]:
    """Invites go once they are over; keys and tokens stay until somebody takes them out."""
    return tuple(each for each in records if not (_is_invite(each) and _is_over(each, now)))


def _is_invite(record: KeyRecord) -> bool:
    return record.kind is KeyKind.INVITE


def _is_open(record: KeyRecord) -> bool:
    return _is_invite(record) and not record.disabled


def _is_over(record: KeyRecord, now: float) -> bool:
    return record.expires_at is not None and record.expires_at <= now
