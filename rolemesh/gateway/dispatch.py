"""One request's way: admit, choose, send, try again elsewhere, and hand on what came."""

from collections.abc import Mapping

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from rolemesh.core.affinity import Chain, Memory
from rolemesh.core.attempts import RULES, Outcome, Try, may_go_on, refusal
from rolemesh.core.errors import Refusal
from rolemesh.core.openai import Ask
from rolemesh.core.passing import Passed, judge, judge_event
from rolemesh.core.routing import Need
from rolemesh.core.sse import first_data
from rolemesh.gateway.admission import Admission, Grant, Want
from rolemesh.gateway.records import Record
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import Body, never, receive
from rolemesh.gateway.upstream import TryFailed, Upstream

LONGEST_WHOLE = 16 * 2**20
LONGEST_ERROR = 64 * 2**10
LONGEST_BEGINNING = 2**20


@frozen
class Call:
    """One client's request on its way. `headers` are those that go upstream."""

    ask: Ask
    want: Want
    headers: Mapping[str, str]
    record: Record
    chain: Chain


@define(eq=False)
class Answer:
    """What a backend answers, before the client has been given any of it.

    `body` is there whole as bytes, or a Body to be poured. `grant` holds the slot until `close`.
    """

    status: int
    content_type: str
    body: bytes | Body
    grant: Grant
    deadline: float
    passed: Passed | None = None

    def break_off(self, why: str) -> None:
        """End the stream before its time, if it is one that is being poured."""
        if isinstance(self.body, Body):
            self.body.break_off(why)


@define(eq=False)
class Dispatch:
    """Finds an answer for a call, asking one backend after another while nothing was delivered."""

    _clock: IReactorTime
    _registry: Registry
    _admission: Admission
    _upstream: Upstream
    _memory: Memory
    open_answers: set[Answer] = field(factory=set)

    async def open(self, call: Call) -> Answer:
        """The beginning of an answer; it holds a slot until it is closed.

        :raises Refusal: when no backend can answer.
        """
        while True:
            grant = await self._admitted(call)
            began = self._clock.seconds()
            try:
                answer = await self._try(call, grant)
            except TryFailed as failed:
                grant.release()
                self._failed(call, grant, failed.outcome, began)
            except BaseException:
                grant.release()
                raise
            else:
                self._note(call, grant, Outcome.SERVED, began)
                self.open_answers.add(answer)
                return answer

    def close(self, answer: Answer) -> None:
        """Give the slot of an answer back."""
        self.open_answers.discard(answer)
        answer.grant.release()

    async def _admitted(self, call: Call) -> Grant:
        tries = call.record.tries
        want = call.want
        if tries:
            tried = frozenset(each.id for each in tries)
            want = evolve(want, need=evolve(want.need, tried=tried))
        try:
            grant = await self._admission.acquire(want)
        except Refusal:
            if not tries:
                raise
            raise refusal(tries, self._standing(want.need)) from None
        record = call.record
        record.backend, record.route = grant.backend.id, grant.route
        record.scores, record.model = grant.scores, grant.backend.model
        record.queued += grant.waited
        self._memory.placed(grant.backend.id, call.chain, self._clock.seconds())
        return grant

    def _failed(self, call: Call, grant: Grant, outcome: Outcome, began: float) -> None:
        """Take note of a failed try; returns when another may follow."""
        self._note(call, grant, outcome, began)
        tries = call.record.tries
        if not may_go_on(tries):
            raise refusal(tries, self._standing(call.want.need))

    def _note(self, call: Call, grant: Grant, outcome: Outcome, began: float) -> None:
        took = self._clock.seconds() - began
        call.record.tries.append(Try(grant.backend.id, outcome, took))
        rule = RULES[outcome]
        if rule.sign is not None:
            self._registry.sign(grant.backend.id, rule.sign)

    def _standing(self, need: Need) -> str:
        standing = self._registry.standing(need.role)
        return f"'{need.role.name}' is ready {standing.ready}/{standing.total}"

    async def _try(self, call: Call, grant: Grant) -> Answer:
        ask, timeouts = call.ask, call.want.need.role.timeouts
        began = self._clock.seconds()
        body = ask.body(grant.backend.model, call.want.need.role.params)
        sending = Deferred.fromCoroutine(
            self._upstream.send(
                grant.backend, "POST", ask.api.value, body, call.headers, timeouts.connect
            )
        )
        response = await self._in_time(sending, timeouts.first_byte)
        deadline = began + timeouts.total
        left = timeouts.first_byte - (self._clock.seconds() - began)
        if response.code >= 300:
            return await self._error(response, grant, left, deadline)
        if _streams(response):
            return await self._begun(response, grant, left, deadline)
        return await self._whole(response, grant, deadline)

    async def _begun(
        self, response: IResponse, grant: Grant, left: float, deadline: float
    ) -> Answer:
        """An answer whose first event is there; before that, nothing of it counts."""
        body = receive(response, self._clock, _has_event, LONGEST_BEGINNING)
        beginning = await self._in_time(body.begun, left)
        data = first_data(beginning)
        if data is None:
            raise TryFailed(Outcome.DIED, "no event came")
        if not data.startswith((b"{", b"[DONE]")):
            body.stopProducing()
            raise TryFailed(Outcome.GARBLED, "its first event is no JSON")
        verdict = judge_event(data)
        if verdict is None:
            return Answer(response.code, _type_of(response), body, grant, deadline)
        body.stopProducing()
        if isinstance(verdict, Outcome):
            raise TryFailed(verdict)
        return Answer(verdict.status, "application/json", b"", grant, deadline, verdict)

    async def _whole(self, response: IResponse, grant: Grant, deadline: float) -> Answer:
        """An answer that is not streamed: held until all of it is there, so it is never cut."""
        body = receive(response, self._clock, never, LONGEST_WHOLE)
        whole = await self._in_time(body.begun, deadline - self._clock.seconds())
        if not _is_json(response, whole):
            raise TryFailed(Outcome.GARBLED, "not JSON")
        return Answer(response.code, "application/json", whole, grant, deadline)

    async def _error(
        self, response: IResponse, grant: Grant, left: float, deadline: float
    ) -> Answer:
        body = receive(response, self._clock, never, LONGEST_ERROR)
        verdict = judge(response.code, await self._in_time(body.begun, left))
        if isinstance(verdict, Outcome):
            raise TryFailed(verdict, str(response.code))
        return Answer(verdict.status, "application/json", b"", grant, deadline, verdict)

    async def _in_time(self, waiting: Deferred, seconds: float):  # type: ignore[no-untyped-def]
        try:
            return await waiting.addTimeout(max(0.0, seconds), self._clock)
        except TimeoutError:
            raise TryFailed(Outcome.FIRST_BYTE_TIMEOUT, f"{seconds:.0f} s") from None


def _has_event(held: bytes) -> bool:
    return first_data(held) is not None


def _type_of(response: IResponse) -> str:
    return (response.headers.getRawHeaders("content-type") or [""])[0]


def _streams(response: IResponse) -> bool:
    return _type_of(response).lower().startswith("text/event-stream")


def _is_json(response: IResponse, body: bytes) -> bool:
    if "json" not in _type_of(response).lower() or _encoded(response):
        return False
    return body.strip()[:1] in (b"{", b"[") and body.rstrip()[-1:] in (b"}", b"]")


def _encoded(response: IResponse) -> bool:
    encodings = response.headers.getRawHeaders("content-encoding") or []
    return any(each not in ("", "identity") for each in encodings)  # llama-server sends ""
