"""Who may ask: the key of a request against the keys that are known."""

import time
from collections.abc import Callable
from pathlib import Path

from twisted.internet.interfaces import IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest

from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyKind, KeyRecord, Scope, read_id
from rolemesh.gateway.certified import check_certificate
from rolemesh.gateway.failures import Failures, address_of
from rolemesh.gateway.key_store import KeySource, KeyStore

_WANTED = {
    KeyKind.CLIENT: "send 'Authorization: Bearer rmk_…' with a key from `rolemesh keys add`",
    KeyKind.NODE: (
        "send 'Authorization: Bearer rmn_…' with a node token from `rolemesh keys add --node NAME`"
    ),
    KeyKind.ADMIN: (
        "send 'Authorization: Bearer rma_…' with an admin key from `rolemesh keys add --admin`"
    ),
}


class Gatekeeper:
    """Lets a request in by its key, or refuses it.

    `keys` and `tokens` are the files, or other sources, of client keys and of node tokens. Without
    both, everyone is let in, which is for a gateway on loopback only; with keys alone, no node can
    register. `now` is the time of day, by which keys expire; `clock` may be any steady one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        keys: Path | KeySource | None = None,
        tokens: Path | KeySource | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._keys, self._tokens = (
            KeyStore(clock, each) if isinstance(each, Path) else each for each in (keys, tokens)
        )
        self._failures = Failures(clock)
        self._now = now

    def load(self) -> None:
        """Read the files, before anything listens.

        :raises ConfigError: when one cannot be used; its text is for the operator.
        """
        for store in (self._keys, self._tokens):
            if store is not None:
                store.load()

    def client(self, request: IRequest, scope: Scope = Scope.CHAT) -> KeyRecord | None:
        """The client key that a request carries; None when the gateway has no keys and asks none.

        :raises Refusal: `invalid_api_key`, `rate_limit_exceeded` after many of these,
            `scope_missing`, `state_unavailable`; `bad_request` for two different keys.
        """
        if self._keys is None:
            return None
        record = self._known(request, self._keys, KeyKind.CLIENT)
        if scope not in record.scopes:
            raise Refusal(
                "scope_missing", f"this key lacks the scope '{scope}': ask for one with it"
            )
        return record

    def reader(self, request: IRequest, *kinds: KeyKind) -> KeyRecord | None:
        """The key, of one of these kinds, of one who asks what was used; None as in `client`.

        :raises Refusal: as `client`, but for the scope.
        """
        return None if self._keys is None else self._known(request, self._keys, *kinds)

    def seen_by(self, request: IRequest) -> Callable[[str], bool] | None:
        """Which roles one may hear of who need not have a key: `everything` without keys or with an
        admin key, a client its own; None with no key where there are some.

        :raises Refusal: as `client` when there is a key, but for the scope.
        """
        if self._keys is None:
            return everything
        if presented(request.requestHeaders) is None:
            return None
        record = self._known(request, self._keys, KeyKind.CLIENT, KeyKind.ADMIN)
        return everything if record.kind is KeyKind.ADMIN else record.allows

    def readable(self) -> bool:
        """Whether the keys of clients, where there are any, can be told from others now."""
        try:
            return self._keys is None or self._keys.ring() is not None
        except Refusal:
            return False

    def name_of(self, id: str) -> str:
        """What a client key is called; nothing where there is none of that id.

        :raises Refusal: `state_unavailable`.
        """
        record = self._keys.ring().get(id) if self._keys is not None else None
        return record.name if record else ""

    def admin(self, request: IRequest) -> KeyRecord | None:
        """The admin key that a request carries, which is in the file of client keys; None as in
        `client`.

        :raises Refusal: as `client`.
        """
        if self._keys is None:
            return None
        record = self._known(request, self._keys, KeyKind.ADMIN)
        if Scope.ADMIN not in record.scopes:
            raise Refusal("scope_missing", f"this key lacks the scope '{Scope.ADMIN}'")
        return record

    def node(self, request: IRequest, node: str) -> KeyRecord | None:
        """The token by which a request speaks for a node; None as in `client`, and no keys either.

        :raises Refusal: as `client`; `scope_missing` when the token is another node's.
        """
        if self._tokens is None:
            if self._keys is None:
                check_certificate(request, node)
                return None
            raise self._refusal(request, KeyKind.NODE)
        record = self._known(request, self._tokens, KeyKind.NODE)
        check_certificate(request, node)
        if not _speaks_for(record, node):
            raise Refusal(
                "scope_missing",
                f"this token may not speak for node '{node}': make one for it with"
                f" `rolemesh keys add --node {node}`",
            )
        return record

    def token(self, id: str | None, node: str) -> KeyRecord | None:
        """The token, by its id, with which a node registered once, if it would still let it in;
        None when none is asked for.

        :raises Refusal: `invalid_api_key` when it would not; `state_unavailable`.
        """
        if self._tokens is None and self._keys is None:
            return None
        record = self._tokens.ring().get(id) if self._tokens and id else None
        if record and record.live(self._now()) and _speaks_for(record, node):
            return record
        raise Refusal("invalid_api_key", f"the token of '{node}' is no longer valid")

    def may_be_invite(self, text: str) -> bool:
        """Whether a text has the id of one of the invites, as far as they can be read now."""
        try:
            id = read_id(text)
            return self._tokens is not None and id is not None and id in self._tokens.ring()
        except Refusal:
            return True

    def _known(self, request: IRequest, store: KeySource, *kinds: KeyKind) -> KeyRecord:
        record = store.ring().check(presented(request.requestHeaders), self._now())
        if record and record.kind in kinds and record.welcomes(address_of(request)):
            return record
        raise self._refusal(request, kinds[0])

    def _refusal(self, request: IRequest, kind: KeyKind) -> Refusal:
        """One more failure. A good key is never held back: no number of guesses finds 256 random
        bits, and behind one proxy all share an address."""
        if self._failures.too_many(address_of(request)):
            message = "too many requests without a valid key from here: wait a second"
            return Refusal("rate_limit_exceeded", message, retry_after=1)
        return Refusal("invalid_api_key", f"no valid key: {_WANTED[kind]}")


def everything(_: str) -> bool:
    """What an operator may see."""
    return True


def _speaks_for(record: KeyRecord, node: str) -> bool:
    return Scope.REGISTER in record.scopes and record.node == node


def presented(headers: Headers) -> str | None:
    """The key in a request's headers, None when there is none.

    :raises Refusal: `bad_request` for two different headers of one name.
    """
    for name in (b"authorization", b"x-api-key", b"api-key"):
        values = set(headers.getRawHeaders(name, ()))
        if len(values) > 1:
            raise Refusal("bad_request", f"two different {name.decode()} headers: send one")
        for value in values:
            if text := _bare(name, value):
                return text
    return None


def _bare(name: bytes, value: bytes) -> str:
    """A key without its scheme; of schemes other than Bearer nothing, for they are not ours."""
    if name == b"authorization":
        scheme, _, value = value.strip().partition(b" ")
        if scheme.lower() != b"bearer":
            return ""
    return value.strip().decode("latin-1")
