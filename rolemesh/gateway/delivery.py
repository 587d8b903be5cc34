"""An answer into a client's hands: whole, or as a stream that never looks whole when it is not."""

from collections.abc import Mapping

from attrs import define, evolve
from msgspec import Raw
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.core.affinity import Memory
from rolemesh.core.attempts import Outcome
from rolemesh.core.errors import KINDS, Refusal
from rolemesh.core.health import Sign
from rolemesh.core.model import Params
from rolemesh.core.openai import Api
from rolemesh.core.passing import Passed
from rolemesh.core.rescue import Rescue, eligible
from rolemesh.core.sse import DONE, BrokenStream, WholeEvents, comment, error_event
from rolemesh.core.usage import Ending, TailTap
from rolemesh.gateway.attempt import Answer, Call
from rolemesh.gateway.dispatch import Dispatch
from rolemesh.gateway.edge_request import EdgeRequest, end_unfinished
from rolemesh.gateway.entries import Entry
from rolemesh.gateway.records import Record, Records
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import Body, Broken, Client, SlowClient, Through
from rolemesh.gateway.warmth import STREAM_HEADERS

_ENDS_WITH_DONE = (Api.CHAT, Api.COMPLETIONS)


@define(eq=False)
class Delivery:
    """Writes answers to clients and settles what they were."""

    _clock: IReactorTime
    _registry: Registry
    _records: Records
    _dispatch: Dispatch
    _memory: Memory

    log = Logger()

    async def deliver(self, answer: Answer, call: Call, request: EdgeRequest) -> None:
        """Give the client all of an answer; its slot is free when this is over, however it ends."""
        record = call.record
        record.status = answer.status
        self._records.answering(record)
        try:
            if isinstance(answer.body, Body):
                await self._stream(answer, call, request)
            elif request.startedWriting and answer.passed is not None:
                refusal = _as_refusal(answer.passed)
                self.refuse_in_stream(refusal, call.ask.api, record, request)
            else:
                self._whole(answer, answer.body, call, request)
        finally:
            self._dispatch.close(answer)
            self._learn(record)

    def _whole(self, answer: Answer, body: bytes, call: Call, request: EdgeRequest) -> None:
        record, passed = call.record, answer.passed
        if passed is not None:
            anthropic = call.ask.api.anthropic
            body = passed.anthropic_body(record.id) if anthropic else passed.openai_body()
            record.code = passed.code
            request.setHeader("x-should-retry", "false")
        record.usage = record.bill = answer.usage
        self._compare_cache(call)
        self._head(answer, call, request, {"content-type": "application/json"})
        request.setHeader("content-length", str(len(body)))
        request.write(body)
        record.size, record.end = len(body), "complete"
        self._registry.sign(answer.grant.backend.id, Sign.SERVED)

    async def _stream(self, answer: Answer, call: Call, request: EdgeRequest) -> None:
        self._head(answer, call, request, STREAM_HEADERS)
        tap = TailTap(call.ask.api, _choices(call))
        try:
            await self._pour(answer, call, request, tap)
            self._close_stream(tap.ending(), call, request)
        except Broken as broken:
            ending = tap.ending()
            if ending.finished:  # all of the answer is there, only its last event is missing
                self._close_stream(ending, call, request)
            else:
                self._break_off(broken, ending.events, call, request)
        except SlowClient:
            call.record.end = "the client did not read"
            request.channel.transport.abortConnection()
            raise CancelledError() from None
        finally:
            ending = tap.ending()
            call.record.usage = ending.usage
            call.record.bill = ending.bill(call.wants[0].need.tokens)
            self._compare_cache(call)

    async def _pour(self, answer: Answer, call: Call, request: EdgeRequest, tap: TailTap) -> None:
        """Pour the answer, and where its role wants that, its rest from another backend."""
        rescue = None
        if answer.role.rescue and eligible(call.ask.api, call.ask.facts):
            rescue = Rescue()
        through = rescue.feed if rescue is not None else WholeEvents()
        try:
            await self._pour_one(answer, call, request, tap, through)
        except Broken as broken:
            if rescue is None or not rescue.possible or answer.grant.backend.model is None:
                raise
            self._dispatch.close(answer)
            await self._rescue(rescue, broken, answer, call, request, tap)

    async def _rescue(
        self,
        rescue: Rescue,
        broken: Broken,
        answer: Answer,
        call: Call,
        request: EdgeRequest,
        tap: TailTap,
    ) -> None:
        """Let another backend of the same model go on where the first one broke off.

        :raises Broken: when none can; then the first one's end is the client's.
        """
        first, continuation = answer.grant.backend, rescue.continuation(answer.sent)
        call.record.tries[-1] = evolve(call.record.tries[-1], outcome=Outcome.CUT)
        self._registry.sign(first.id, Sign.BROKE)
        rest = self._continued(call, answer, continuation.members)
        try:
            second = await self._dispatch.open(rest)
        except Refusal:
            raise broken from None
        try:
            if not isinstance(second.body, Body):
                raise broken
            self.log.info(
                "{first} {why}; {second} goes on after {spent} tokens",
                first=str(first.id),
                why=str(broken),
                second=str(second.grant.backend.id),
                spent=rescue.spent,
                **{"http.request.id": call.record.id, "rolemesh.role": call.record.role},
            )
            request.write(comment(f"{first.id} {broken}; {second.grant.backend.id} goes on"))
            await self._pour_one(second, call, request, tap, continuation.splice.feed)
        finally:
            self._dispatch.close(second)

    def _continued(self, call: Call, answer: Answer, members: Mapping[str, Raw]) -> Call:
        want, backend = call.wants[0], answer.grant.backend
        role = evolve(answer.role, params=Params())  # they were applied to what was sent
        need = evolve(
            want.need,
            role=role,
            model=backend.model,
            tried=want.need.tried | {backend.id},
        )
        ask = evolve(call.ask, members=members)
        return evolve(call, ask=ask, wants=(evolve(want, need=need),))

    async def _pour_one(
        self,
        answer: Answer,
        call: Call,
        request: EdgeRequest,
        tap: TailTap,
        through: Through,
    ) -> None:
        assert isinstance(answer.body, Body)
        client = Client(request, tap.feed, through)
        try:
            await answer.body.pour(client, answer.patience)
        except BrokenStream as broken:
            why = f"sent a stream that cannot be read: {broken}"
            raise Broken(why, "upstream_error") from None
        finally:
            call.record.size += answer.body.size

    def _close_stream(self, ending: Ending, call: Call, request: EdgeRequest) -> None:
        """Let a stream end that came to its end.

        :raises Broken: when its last event is missing, and with it, perhaps, a part of the answer.
        """
        if not ending.complete and not ending.finished:
            raise Broken("ended its stream without the last event")
        if not ending.complete and call.ask.api in _ENDS_WITH_DONE:
            request.write(DONE)
        if call.record.backend is not None:
            self._registry.sign(call.record.backend, Sign.SERVED)
        call.record.end = "complete" if ending.complete else "complete; [DONE] added"

    def _break_off(self, why: Broken, events: int, call: Call, request: EdgeRequest) -> None:
        """Tell the client in the stream what happened, and end it so that it looks unfinished."""
        record = call.record
        lost = [record.backend] if record.backend is not None else []
        for id in lost:
            self._registry.sign(id, Sign.BROKE)
        standing = self._registry.standing(call.wants[0].need.role, lost)
        refusal = Refusal(
            why.code,
            f"{record.backend} {why}, after {events} events; not retried because part was "
            f"delivered. Send again: '{record.role}' is ready {standing.ready}/{standing.total}.",
        )
        record.end = f"cut: {why}, after {events} events"
        self.refuse_in_stream(refusal, call.ask.api, record, request)

    def refuse_in_stream(
        self, refusal: Refusal, api: Api, record: Record, request: EdgeRequest
    ) -> None:
        """Tell a refusal in a stream that has begun, and end that unfinished."""
        record.code, record.end = refusal.code, record.end or "refused in the stream"
        end_unfinished(request, error_event(api, refusal, record.id))

    def _head(
        self, answer: Answer, call: Call, request: EdgeRequest, headers: Mapping[str, str]
    ) -> None:
        if request.startedWriting:  # the client was kept warm meanwhile
            return
        request.setResponseCode(answer.status)
        for name, value in {**headers, **_told(call.record)}.items():
            request.setHeader(name, value)

    def _compare_cache(self, call: Call) -> None:
        """Tell what was found in a cache where something was believed to be, and learn from it."""
        record, found = call.record, call.record.usage.cached
        if found is None or record.backend is None or not record.believed:
            return
        record.route += f"; found={found}"
        self._memory.found(record.backend, call.chain, found)

    def _learn(self, record: Record) -> None:
        timings, named = record.usage.timings, record.usage.model
        entry = self._registry.get(record.backend) if record.backend else None
        if record.backend is None or entry is None:
            return
        if named is not None and named != (record.model or entry.alias or named):
            self._mismatch(entry, named)
        if timings is None:
            return
        usual = entry.writing.seen
        record.normal_rate = usual and round(usual, 1)
        self._registry.learn(record.backend, timings)

    def _mismatch(self, entry: Entry, named: str) -> None:
        """A backend answers for another model than is known of it; the bytes pass as they are."""
        entry.mismatches += 1
        if entry.mismatches == 1:
            self.log.warn(
                "{backend} is known to serve {known} and answers as {named}",
                backend=str(entry.backend.id),
                known=entry.backend.model or entry.alias,
                named=named,
            )


def _as_refusal(passed: Passed) -> Refusal:
    """A backend's own error where a stream has begun."""
    code = passed.code if passed.code in KINDS else "bad_request"
    return Refusal(code, passed.message, details=passed.details)


def _told(record: Record) -> dict[str, str]:
    """The response headers that say who answered and why."""
    told = {
        "x-rolemesh-role": record.role or "",
        "x-rolemesh-route": record.route,
        "x-rolemesh-attempts": str(len(record.tries)),
        "x-rolemesh-queue-ms": str(round(record.queued * 1000)),
        "openai-processing-ms": str(round((record.first_byte or 0.0) * 1000)),
    }
    if record.backend is not None:
        told["x-rolemesh-node"] = record.backend.node
        told["x-rolemesh-backend"] = record.backend.backend
    if record.model is not None:
        told["x-rolemesh-model"] = record.model
    return told


def _choices(call: Call) -> int:
    n = call.ask.facts.get("n")
    return n if isinstance(n, int) and n > 0 else 1
