"""Tells one gateway what this node serves: on a beat, at once on a change, for ever."""

from collections.abc import Callable
from enum import Enum

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from rolemesh.core.gateways import next_try
from rolemesh.core.local import GatewayStanding
from rolemesh.core.report import Accepted, Registration, encode, read_accepted
from rolemesh.node.calls import Answer, Caller
from rolemesh.tls.client import Untrusted

BEAT = 5.0  # seconds, until a gateway says otherwise
FASTEST_BEAT, SLOWEST_BEAT = 0.5, 60.0
SOON = 0.05  # seconds in which changes are gathered into one report
CONFLICT = 409  # another agent has our name, and is alive
TOO_FAST = 429
PATIENT = 1.0  # seconds for a gateway that is told too much and does not say when to come again
REFUSED_RETRY = 60.0  # seconds; whoever refuses our token is not asked again at once
REMIND = 600.0  # seconds between lines about a trouble that lasts
FAREWELL = 2.0  # seconds


class Standing(Enum):
    """How we stand with a gateway."""

    UNKNOWN = "unknown"
    REGISTERED = "registered"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNTRUSTED = "untrusted"


class Link:
    """One gateway, told by itself: another one's silence does not hold it up.

    `snapshot` gives what is to be told; `random` gives 0 to 1; `heard` takes each good answer.
    """

    _log = Logger()

    def __init__(
        self,
        url: str,
        token: str | None,
        caller: Caller,
        clock: IReactorTime,
        snapshot: Callable[[], Registration],
        random: Callable[[], float],
        heard: Callable[[Accepted], None] = lambda _: None,
    ) -> None:
        self.standing = Standing.UNKNOWN
        self._url = url.rstrip("/")
        self._token = token
        self._caller = caller
        self._clock = clock
        self._snapshot = snapshot
        self._random = random
        self._heard = heard
        self._beat = BEAT
        self._failures = 0
        self._since = self._away_since = self._logged_at = clock.seconds()
        self._said = ""
        self._trouble = ""
        self._refusals: tuple[str, ...] = ()
        self._loop = LoopingCall(self._tell)
        self._telling: Deferred[None] | None = None
        self._busy = False
        self._answer: Accepted | None = None
        self._news = False
        self._timer: IDelayedCall | None = None

    def start(self) -> None:
        """Tell it now, and then on the beat."""
        self._begin_loop(now=True)

    def changed(self) -> None:
        """Something is new: tell it soon. A gateway that is away hears it when it is back."""
        if self._busy:
            self._news = True
        elif self._timer is None and self.standing is Standing.REGISTERED:
            self._later(SOON)

    def about(self, learned: bool = False) -> GatewayStanding:
        """How we stand with it, for how long, what went wrong last, when it is told again."""
        now = self._clock.seconds()
        coming = self._timer or self._loop.call
        return GatewayStanding(
            url=self._url,
            standing=self.standing.value,
            said=self._said,
            since=now - self._since,
            trouble=self._trouble,
            next_in=coming.getTime() - now if coming is not None and coming.active() else None,
            learned=learned,
        )

    async def stop(self, node: str, farewell: bool = True) -> None:
        """Tell no more, and try for two seconds to say that the node leaves, where it does."""
        self._stop_loop()
        self._news = False
        if self._telling is not None:
            self._telling.cancel()
        if self.standing is Standing.REGISTERED:
            self.standing = Standing.UNKNOWN
            if farewell:
                await self._say_farewell(node)

    async def _say_farewell(self, node: str) -> None:
        url = f"{self._url}/v1/nodes/{node}"
        try:
            await self._caller.call("DELETE", url, bearer=self._token, timeout=FAREWELL)
        except Exception as problem:
            self._log.info(
                "{gateway}: not told that we leave: {why}", gateway=self._url, why=_words(problem)
            )

    def _tell(self) -> Deferred[None]:
        self._news, self._busy = False, True  # a snapshot may find that something changed
        self._telling = telling = Deferred.fromCoroutine(self._exchange())
        return telling.addBoth(lambda _: self._told())

    def _told(self) -> None:
        """One report is through or lost; whatever went wrong, there will be another one."""
        self._telling, self._busy = None, False
        answer, self._answer = self._answer, None
        if answer is not None:
            self._heard(answer)  # who may then stop us
        if self._news and self.standing is Standing.REGISTERED and self._timer is None:
            self._later(SOON)

    async def _exchange(self) -> None:
        try:
            answer = await self._send()
        except CancelledError:
            raise
        except Untrusted as problem:
            self._fail(Standing.UNTRUSTED, str(problem), REFUSED_RETRY)
        except Exception as problem:
            self._unreachable(_words(problem))
        else:
            self._hear(answer)

    async def _send(self) -> Answer:
        """A heartbeat; a full registration where the gateway does not know us (again)."""
        snapshot = self._snapshot()
        body = encode(snapshot)
        if self.standing is Standing.REGISTERED:
            url = f"{self._url}/v1/nodes/{snapshot.node}/heartbeat"
            answer = await self._caller.call("POST", url, bearer=self._token, body=body)
            if answer.status not in (404, 410):
                return answer
        url = f"{self._url}/v1/nodes/register"
        return await self._caller.call("POST", url, bearer=self._token, body=body)

    def _hear(self, answer: Answer) -> None:
        if answer.status in (401, 403):
            why = f"it refuses us: {_message(answer)}"
            self._fail(Standing.REFUSED, why, REFUSED_RETRY)
        elif answer.status == CONFLICT:
            self._unreachable(f"it refuses us: {_message(answer)}", Standing.REFUSED)
        elif answer.status == TOO_FAST:
            self._slow_down(answer)
        elif answer.status // 100 != 2:
            self._unreachable(f"it answered {answer.status}: {_message(answer)}")
        else:
            self._read(answer)

    def _slow_down(self, answer: Answer) -> None:
        """It knows us and has heard enough for now: what is new waits as long as it says."""
        wait = PATIENT if answer.retry_after is None else answer.retry_after
        wait = min(max(wait, SOON), SLOWEST_BEAT)
        why = f"not told: it answered 429: {_message(answer)}"
        if self.standing is Standing.REGISTERED:
            self._trouble = why
            self._later(wait)
        else:
            self._fail(Standing.UNREACHABLE, why, wait)

    def _read(self, answer: Answer) -> None:
        try:
            accepted = read_accepted(answer.body)
        except msgspec.MsgspecError as problem:
            self._unreachable(f"its answer is not a gateway's: {problem}")
        else:
            self._accepted(accepted)

    def _accepted(self, accepted: Accepted) -> None:
        self._failures = 0
        self._stand(Standing.REGISTERED, "registered")
        self._tell_refusals(accepted)
        beat = min(max(accepted.heartbeat_s, FASTEST_BEAT), SLOWEST_BEAT)
        if beat != self._beat:
            self._beat = beat
            self._begin_loop(now=False)
        self._answer = accepted

    def _tell_refusals(self, accepted: Accepted) -> None:
        refusals = tuple(f"{one.backend}: {one.message} ({one.code})" for one in accepted.refused)
        for refusal in refusals if refusals != self._refusals else ():
            self._log.warn("{gateway} does not take {refusal}", gateway=self._url, refusal=refusal)
        self._refusals = refusals

    def _unreachable(self, why: str, standing: Standing = Standing.UNREACHABLE) -> None:
        """Try again after pauses that grow."""
        now = self._clock.seconds()
        if not self._failures:
            self._away_since = now
        self._failures += 1
        wait = next_try(self._failures, now - self._away_since, self._random())
        self._fail(standing, f"not told: {why}", wait)

    def _fail(self, standing: Standing, why: str, seconds: float) -> None:
        self._trouble = why
        self._stand(standing, why)
        self._later(seconds)

    def _stand(self, standing: Standing, why: str) -> None:
        """One line when it changes, not one a try; a trouble that lasts is told again at times."""
        now = self._clock.seconds()
        news = standing is not self.standing or (standing is Standing.REFUSED and why != self._said)
        if standing is not self.standing:
            self._since = now
        lasts = standing is not Standing.REGISTERED and now - self._logged_at >= REMIND
        if news or lasts:
            since = f", for {now - self._since:.0f} s now" if not news else ""
            self._log.info("{gateway}: {why}{since}", gateway=self._url, why=why, since=since)
            self._logged_at = now
        self.standing, self._said = standing, why

    def _begin_loop(self, now: bool) -> None:
        self._stop_loop()
        self._loop = LoopingCall(self._tell)
        self._loop.clock = self._clock
        self._loop.start(self._beat, now=now)

    def _later(self, seconds: float) -> None:
        """Leave the beat until then."""
        self._stop_loop()
        self._timer = self._clock.callLater(seconds, self.start)

    def _stop_loop(self) -> None:
        if self._loop.running:
            self._loop.stop()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None


def _message(answer: Answer) -> str:
    """The message of an error body in OpenAI's shape, as far as there is one."""
    try:
        error = msgspec.json.decode(answer.body)["error"]
        return str(error["message"])[:500]
    except (msgspec.MsgspecError, LookupError, TypeError):
        return "no message"


def _words(problem: Exception) -> str:
    return str(problem) or type(problem).__name__
