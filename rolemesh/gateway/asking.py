"""What one request asks of the mesh, as it can be read from it."""

from collections.abc import Hashable, Iterator
from hashlib import blake2b
from typing import Any

from attrs import define
from twisted.internet.threads import deferToThreadPool

from rolemesh.core.affinity import Memory
from rolemesh.core.chains import Chain, chain_of, session_of
from rolemesh.core.keys import KeyRecord
from rolemesh.core.model import BackendId, Role
from rolemesh.core.openai import Api, Ask, read
from rolemesh.core.rendezvous import lot_of
from rolemesh.core.roles import Wanted
from rolemesh.core.routing import Need
from rolemesh.gateway.admission import Want
from rolemesh.gateway.attempt import Call
from rolemesh.gateway.catalogue import Catalogue
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.records import Record
from rolemesh.gateway.registry import Registry

LONGEST_WAIT = 600.0
BEFORE_IT_LEAVES = 0.5  # seconds
LONG_BODY = 2**20
_READ_TIMEOUTS = ("x-stainless-read-timeout", "x-stainless-timeout")
_PASSED_ON = ("traceparent", "tracestate", "anthropic-version", "anthropic-beta")


@define(eq=False)
class Asking:
    """Reads requests: which role is wanted, how much of it, for how long, and what is known of it.

    `reactor` has the time, and the threads in which long bodies are read.
    """

    _reactor: Any
    _catalogue: Catalogue
    _registry: Registry
    _memory: Memory

    async def read(self, api: Api, body: bytes) -> Ask:
        """What a body asks for; a long one is read beside the reactor, which others need.

        :raises Refusal: when it cannot be read.
        """
        if len(body) < LONG_BODY:
            return read(api, body)
        threads = self._reactor.getThreadPool()
        return await deferToThreadPool(self._reactor, threads, read, api, body)

    def call(
        self,
        request: EdgeRequest,
        ask: Ask,
        wanted: Wanted,
        key: KeyRecord | None,
        body: bytes,
        record: Record,
    ) -> Call:
        """All that is to be known of a request to serve it, by the roles in turn."""
        chain = _chain(request, ask)
        wants = tuple(self._want(request, ask, each, key, chain) for each in self._in_turn(wanted))
        identity = blake2b(body, digest_size=16).digest()
        return Call(ask, identity, wants, _upstream_headers(request), record, chain)

    def want(self, request: EdgeRequest, ask: Ask, wanted: Wanted, key: KeyRecord | None) -> Want:
        """What the first of these roles would be asked for."""
        return self._want(request, ask, wanted, key, _chain(request, ask))

    def _want(
        self, request: EdgeRequest, ask: Ask, wanted: Wanted, key: KeyRecord | None, chain: Chain
    ) -> Want:
        def cached(id: BackendId) -> tuple[int, int]:
            entry = self._registry.get(id)
            slots = entry.backend.slots if entry else None
            return self._memory.cached(id, chain, slots, self._reactor.seconds())

        need = Need(
            wanted.role,
            max(chain.tokens, ask.size // 8),
            wanted.node,
            slotless=not ask.api.generates,
            lot=lot_of(chain, ask.api),
        )
        owner: Hashable = key.id if key else None
        until = self._reactor.seconds() + _wait(request, wanted.role)
        return Want(need, owner, chain.party, until, cached, _output(ask))

    def _in_turn(self, wanted: Wanted) -> Iterator[Wanted]:
        """The wanted role and those that stand in for it; a key for the one is good for these."""
        yield wanted
        for name in wanted.role.fallback:
            yield Wanted(self._catalogue.roles.listed[name])


def _chain(request: EdgeRequest, ask: Ask) -> Chain:
    headers = {
        name.decode("ascii", "replace").lower(): values[-1].decode("utf-8", "replace")
        for name, values in request.requestHeaders.getAllRawHeaders()
    }
    return chain_of(ask, session_of(headers, ask.facts))


def _wait(request: EdgeRequest, role: Role) -> float:
    """How long a request may wait for a slot: not until its client gives the answer up, which would
    then never read why there is none and when to come back."""
    if role.queue.wait is not None:
        return role.queue.wait
    for name in _READ_TIMEOUTS:
        try:
            told = float(request.getHeader(name) or "")
        except ValueError:
            continue
        return max(0.0, min(max(told - BEFORE_IT_LEAVES, told / 2), LONGEST_WAIT))
    return LONGEST_WAIT


def _output(ask: Ask) -> int:
    """About how many tokens an answer will have: what the client allows, or a usual length."""
    for name in ("max_completion_tokens", "max_tokens", "max_output_tokens"):
        most = ask.facts.get(name)
        if isinstance(most, int) and most > 0:
            return min(most, 512)
    return 256


def _upstream_headers(request: EdgeRequest) -> dict[str, str]:
    headers = {"content-type": "application/json", "x-request-id": request.request_id}
    for name in _PASSED_ON:
        value = request.getHeader(name)
        if value is not None:
            headers[name] = value
    return headers
