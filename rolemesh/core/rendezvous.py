"""Where gateways that never talk would all send a conversation: to the backend whose name, hashed
with the conversation's, is the highest (rendezvous hashing). It depends on no order and no memory,
and when a backend goes, only its own conversations move.
"""

from hashlib import blake2b

from attrs import frozen

from rolemesh.core.chains import Chain
from rolemesh.core.model import BackendId
from rolemesh.core.openai import Api

_IN_TURNS = (Api.CHAT, Api.MESSAGES, Api.RESPONSES)


@frozen
class Lot:
    """By what a conversation is drawn, at most 64 bytes; `heard` of its tokens some backend has
    read, through this gateway or another; the `opening` ones many conversations may share."""

    key: bytes
    heard: int = 0
    opening: int = 0


def lot_of(chain: Chain, api: Api) -> Lot | None:
    """What stays the same from turn to turn: the session, else how the conversation begins behind
    tools and system prompt, which all conversations may share; None where there is no text."""
    own = chain.links[chain.opening :] or chain.links[-1:]
    if chain.session is None and not own:
        return None
    session = chain.session.encode() if chain.session is not None else None
    key = own[0][0] if session is None else blake2b(session, digest_size=12).digest()
    told_before = own[-2][1] if api in _IN_TURNS and len(own) > 2 else 0
    opening = chain.links[chain.opening - 1][1] if chain.opening else 0
    return Lot(key, told_before, opening)


def weight(lot: Lot, id: BackendId) -> bytes:
    """Of the same backends the same one has the highest, wherever this is asked; of many lots each
    backend gets alike."""
    return blake2b(str(id).encode(), key=lot.key, digest_size=8).digest()
