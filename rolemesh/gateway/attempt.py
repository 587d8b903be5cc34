"""One try at one backend: send, and judge the beginning of what comes, before a client sees it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

import msgspec
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IResponse

from rolemesh.core.assemble import STREAMED, Assembler, as_stream
from rolemesh.core.attempts import Outcome
from rolemesh.core.chains import Chain
from rolemesh.core.model import Role
from rolemesh.core.openai import Ask, encode
from rolemesh.core.passing import Passed, judge, judge_event, judge_whole
from rolemesh.core.reading import Beginning, can_tell, telling
from rolemesh.core.sse import BrokenStream, first_data
from rolemesh.core.usage import TailTap, Usage, usage_of_json
from rolemesh.gateway.admission import Grant, Want
from rolemesh.gateway.progress import Progress
from rolemesh.gateway.records import Record
from rolemesh.gateway.relay import Body, Broken, Collector, Patience, never, receive
from rolemesh.gateway.upstream import TryFailed, Upstream

LONGEST_WHOLE = 16 * 2**20
LONGEST_ERROR = 64 * 2**10
LONGEST_BEGINNING = 2**20

T = TypeVar("T")


@frozen
class Call:
    """One client's request on its way.

    `identity` is a hash by which the same request is known again; `wants` are tried in turn;
    `headers` go upstream.
    """

    ask: Ask
    identity: bytes
    wants: tuple[Want, ...]
    headers: Mapping[str, str]
    record: Record
    chain: Chain


@define(eq=False)
class Answer:
    """What a backend answers, before the client has been given any of it.

    `body` is there whole as bytes, or a Body to be poured with `patience`. `grant` holds the slot
    until it is released. `sent` are the members that the backend got; where it `tells` its progress
    with the prompt, what asks for that was beside them, and `heard` is when it last did.
    """

    role: Role
    grant: Grant
    sent: Mapping[str, msgspec.Raw]
    tells: bool
    patience: Patience
    status: int
    body: bytes | Body = b""
    usage: Usage = field(factory=Usage)
    passed: Passed | None = None
    heard: float = 0.0

    def break_off(self, why: str) -> None:
        """End the stream before its time, if it is one that is being poured."""
        if isinstance(self.body, Body):
            self.body.break_off(why)


@define(eq=False)
class Attempt:
    """Sends calls to backends and reads the beginning of each answer."""

    _clock: IReactorTime
    _upstream: Upstream
    _progress: Progress

    async def make(self, call: Call, role: Role, grant: Grant, begun: Callable[[], None]) -> Answer:
        """The answer of the backend that `grant` names; `begun()` once some of it is there.

        :raises TryFailed: another backend may try.
        """
        ask = call.ask.with_params(role.params)
        streamed = _streamed(ask, role, grant)
        answer = Answer(
            role,
            grant,
            streamed or ask.members,
            _tells(ask, role, grant, streamed),
            self._patience(role, grant),
            200,
        )
        response = await self._send(call, answer)
        answer.status = response.code
        if not 200 <= response.code < 600:
            raise TryFailed(Outcome.GARBLED, f"status {response.code}")
        if response.code >= 300:
            await self._take_error(response, answer)
        elif _is_stream(response) and (ask.stream or ask.api in STREAMED):
            await self._take_stream(ask, response, answer, begun)
        else:
            await self._take_whole(ask, response, answer)
        return answer

    def _patience(self, role: Role, grant: Grant) -> Patience:
        until = self._clock.seconds() + role.timeouts.total
        seen = partial(self._progress.seen, grant.backend.id)
        return Patience(role.timeouts.idle, until, progress=seen)

    async def _send(self, call: Call, answer: Answer) -> IResponse:
        timeouts, backend = answer.role.timeouts, answer.grant.backend
        body = encode(telling(answer.sent) if answer.tells else answer.sent, backend.model)
        path = call.ask.api.value
        sending = self._upstream.send(backend, "POST", path, body, call.headers, timeouts.connect)
        return await self._with_progress(Deferred.fromCoroutine(sending), answer)

    async def _take_stream(
        self, ask: Ask, response: IResponse, answer: Answer, begun: Callable[[], None]
    ) -> None:
        """Wait for the first event; before that, nothing of an answer counts."""
        beginning = Beginning(self._noted(answer) if answer.tells else None)
        answer.body = body = receive(response, self._clock, beginning, LONGEST_BEGINNING)
        head: bytes = await self._with_progress(body.begun, answer)
        data = first_data(head)
        if data is None:
            raise TryFailed(Outcome.DIED, "no event came")
        if not data.startswith((b"{", b"[DONE]", b"null")):
            body.stopProducing()
            raise TryFailed(Outcome.GARBLED, "its first event is no JSON")
        verdict = judge_event(data)
        if verdict is not None:
            body.stopProducing()
            self._take_verdict(verdict, answer)
        elif not ask.stream:
            begun()
            await self._assemble(ask, body, answer)

    async def _assemble(self, ask: Ask, body: Body, answer: Answer) -> None:
        """Put a stream together into the answer that was asked for without streaming."""
        assembler, tap = Assembler(ask.api, ask.facts), TailTap(ask.api)

        def take(piece: bytes) -> None:
            tap.feed(piece)
            assembler.feed(piece)

        collector = Collector(take)
        try:
            await body.pour(collector, answer.patience)
            collector.finish()
            if assembler.error is None:
                answer.body = assembler.finish()
        except (BrokenStream, Broken) as broken:
            raise TryFailed(Outcome.DIED, str(broken)) from None
        if assembler.error is not None:
            verdict = judge(assembler.error.status, assembler.error.body)
            self._take_verdict(verdict, answer)
        answer.usage = tap.ending().usage

    async def _take_whole(self, ask: Ask, response: IResponse, answer: Answer) -> None:
        """An answer that is not streamed: held until all of it is there, so it is never cut."""
        body = receive(response, self._clock, never, LONGEST_WHOLE)
        whole = await self._in_time(body.begun, answer.patience.until - self._clock.seconds())
        usage = usage_of_json(ask.api, whole) if _is_json(response, whole) else None
        if usage is None:
            raise TryFailed(Outcome.GARBLED, "no whole JSON")
        answer.body, answer.usage = whole, usage
        verdict = judge_whole(whole)
        if verdict is not None:
            self._take_verdict(verdict, answer)
        elif ask.stream:  # to whom waits for events it is an empty answer
            raise TryFailed(Outcome.GARBLED, "no stream")

    async def _take_error(self, response: IResponse, answer: Answer) -> None:
        body = receive(response, self._clock, never, LONGEST_ERROR)
        self._take_verdict(
            judge(response.code, await self._with_progress(body.begun, answer)), answer
        )

    def _take_verdict(self, verdict: Outcome | Passed, answer: Answer) -> None:
        if isinstance(verdict, Outcome):
            raise TryFailed(verdict)
        answer.status, answer.body, answer.passed = verdict.status, b"", verdict

    def _noted(self, answer: Answer) -> Callable[[], None]:
        def note() -> None:
            answer.heard = self._clock.seconds()
            self._progress.note(answer.grant.backend.id)

        return note

    async def _with_progress(self, waiting: "Deferred[T]", answer: Answer) -> T:
        left = answer.role.timeouts.first_byte - self._spent(answer)
        backend = answer.grant.backend.id
        return await self._progress.bounded(waiting, backend, left, lambda: answer.heard)

    def _spent(self, answer: Answer) -> float:
        return self._clock.seconds() - (answer.patience.until - answer.role.timeouts.total)

    async def _in_time(self, waiting: "Deferred[T]", seconds: float) -> T:
        try:
            return await waiting.addTimeout(max(0.0, seconds), self._clock)
        except TimeoutError:
            raise TryFailed(Outcome.OVERDUE, f"{seconds:.0f} s") from None


def _streamed(ask: Ask, role: Role, grant: Grant) -> Mapping[str, msgspec.Raw] | None:
    """The members by which llama-server streams what is asked for as a whole, if it can.

    It looks at a client that waits for a whole answer only between other results; a stream's
    client it sees leave at once.
    """
    if ask.stream or not role.assemble or not grant.backend.llama_server:
        return None
    return as_stream(ask.api, ask.members, ask.facts)


def _tells(ask: Ask, role: Role, grant: Grant, streamed: Mapping[str, msgspec.Raw] | None) -> bool:
    """Whether the backend is asked to tell what it has read of the prompt."""
    stream = ask.stream or streamed is not None
    able = role.assemble and grant.backend.llama_server
    return stream and able and can_tell(ask.api, ask.members, ask.facts)


def _type_of(response: IResponse) -> str:
    return (response.headers.getRawHeaders("content-type") or [""])[0].lower()


def _is_stream(response: IResponse) -> bool:
    return _type_of(response).startswith("text/event-stream")


def _is_json(response: IResponse, body: bytes) -> bool:
    if "json" not in _type_of(response):
        return False
    return body.strip()[:1] in (b"{", b"[") and body.rstrip()[-1:] in (b"}", b"]")
