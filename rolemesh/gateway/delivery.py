"""An answer into a client's hands: whole, or as a stream that never looks whole when it is not."""

from attrs import define
from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from rolemesh.core.attempts import RULES, Outcome
from rolemesh.core.errors import Refusal
from rolemesh.core.openai import Api
from rolemesh.core.sse import DONE, error_event
from rolemesh.core.usage import Ending, TailTap, usage_of_json
from rolemesh.gateway.dispatch import Answer, Call, Dispatch
from rolemesh.gateway.edge_request import EdgeRequest, end_unfinished
from rolemesh.gateway.records import Record, Records
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.relay import Body, Broken, Client, Patience, SlowClient

_ENDS_WITH_DONE = (Api.CHAT, Api.COMPLETIONS)
_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-transform",
    "x-accel-buffering": "no",
}


@define(eq=False)
class Delivery:
    """Writes answers to clients and settles what they were."""

    _clock: IReactorTime
    _registry: Registry
    _records: Records
    _dispatch: Dispatch

    async def deliver(self, answer: Answer, call: Call, request: EdgeRequest) -> None:
        """Give the client all of an answer; its slot is free when this is over, however it ends."""
        record = call.record
        record.status = answer.status
        self._records.answering(record)
        try:
            if isinstance(answer.body, Body):
                await self._stream(answer, answer.body, call, request)
            else:
                self._whole(answer, answer.body, call, request)
        finally:
            self._dispatch.close(answer)
            self._learn(record)

    def _whole(self, answer: Answer, body: bytes, call: Call, request: EdgeRequest) -> None:
        record = call.record
        if answer.passed is not None:
            anthropic = call.ask.api.anthropic
            passed = answer.passed
            body = passed.anthropic_body(record.id) if anthropic else passed.openai_body()
            record.code = passed.code
            request.setHeader("x-should-retry", "false")
        else:
            record.usage = usage_of_json(call.ask.api, body)
        self._head(answer, call, request, {"content-type": answer.content_type})
        request.setHeader("content-length", str(len(body)))
        request.write(body)
        record.size, record.end = len(body), "complete"

    async def _stream(self, answer: Answer, body: Body, call: Call, request: EdgeRequest) -> None:
        record, ask = call.record, call.ask
        tap = TailTap(ask.api, _choices(call))
        self._head(answer, call, request, _STREAM_HEADERS)
        idle = call.want.need.role.timeouts.idle
        try:
            await body.pour(Client(request, tap.feed), Patience(idle, answer.deadline))
            self._close_stream(tap.ending(), call, request)
        except Broken as broken:
            self._break_off(str(broken), call, request)
        except SlowClient:
            record.end = "the client did not read"
            request.channel.transport.abortConnection()
            raise CancelledError() from None
        finally:
            record.size = body.size
            record.usage = tap.ending().usage

    def _close_stream(self, ending: Ending, call: Call, request: EdgeRequest) -> None:
        """Let a stream end that came to its end.

        :raises Broken: when its last event is missing, and with it, perhaps, a part of the answer.
        """
        if not ending.complete and not ending.finished:
            raise Broken("ended its stream without the last event")
        if not ending.complete and call.ask.api in _ENDS_WITH_DONE:
            request.write(DONE)
        call.record.end = "complete" if ending.complete else "complete; [DONE] added"

    def _break_off(self, why: str, call: Call, request: EdgeRequest) -> None:
        """Tell the client in the stream what happened, and end it so that it looks unfinished."""
        record = call.record
        if record.backend is not None:
            sign = RULES[Outcome.CUT].sign
            if sign is not None:
                self._registry.sign(record.backend, sign)
        standing = self._registry.standing(call.want.need.role)
        refusal = Refusal(
            "upstream_disconnected",
            f"{record.backend} {why}; not retried because part was delivered. Send again: "
            f"'{record.role}' is ready {standing.ready}/{standing.total}.",
        )
        record.code, record.end = refusal.code, f"cut: {why}"
        end_unfinished(request, error_event(call.ask.api, refusal, record.id))

    def _head(
        self, answer: Answer, call: Call, request: EdgeRequest, headers: dict[str, str]
    ) -> None:
        request.setResponseCode(answer.status)
        for name, value in {**headers, **_told(call.record)}.items():
            request.setHeader(name, value)

    def _learn(self, record: Record) -> None:
        timings = record.usage.timings
        if record.backend is None or timings is None:
            return
        self._registry.learn(
            record.backend,
            _rate(timings.prompt_n, timings.prompt_ms),
            _rate(timings.predicted_n, timings.predicted_ms),
        )


def _rate(tokens: int, milliseconds: float) -> float | None:
    enough = tokens >= 8 and milliseconds > 0  # fewer tell of overhead, not of speed
    return tokens / milliseconds * 1000 if enough else None


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
