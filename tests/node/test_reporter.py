"""How a node keeps its gateways informed: on a Clock, against gateways of words."""

import json

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.report import Registration
from rolemesh.node.calls import Answer, Caller
from rolemesh.node.reporter import Link, Reporter, Standing

REGISTER = "http://gw:8000/v1/nodes/register"
HEARTBEAT = "http://gw:8000/v1/nodes/box2/heartbeat"
NODE = "http://gw:8000/v1/nodes/box2"


@frozen
class Call:
    method: str
    url: str
    bearer: str | None
    body: bytes | None
    timeout: float | None


class FakeGateway(Caller):
    """Answers what `status` says at once, or keeps the caller waiting; notes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.statuses: list[int] = []
        self.away = False
        self.heartbeat = 5.0
        self.refused: list[dict[str, str]] = []
        self.body: bytes | None = None
        self.hold: Deferred[None] | None = None
        self.cancelled = 0

    async def call(
        self,
        method: str,
        url: str,
        *,
        bearer: str | None = None,
        body: bytes | None = None,
        limit: int = 0,  # noqa: ARG002
        timeout: float | None = None,
    ) -> Answer:
        self.calls.append(Call(method, url, bearer, body, timeout))
        if self.hold is not None:
            await self.hold
        if self.away:
            raise ConnectionRefusedError()
        return self.answer(self.statuses.pop(0) if self.statuses else 200)

    def answer(self, status: int) -> Answer:
        if status != 200:
            message = {"error": {"message": "because", "code": "x"}}
            return Answer(status, json.dumps(message).encode())
        accepted = {
            "node": "box2",
            "lease_s": 15,
            "heartbeat_s": self.heartbeat,
            "refused": self.refused,
        }
        return Answer(200, self.body or json.dumps(accepted).encode())

    def wait(self) -> None:
        self.hold = Deferred(self._count_cancel)

    def _count_cancel(self, _: object) -> None:
        self.cancelled += 1

    @property
    def urls(self) -> list[str]:
        return [call.url for call in self.calls]


class LinkTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock, self.gateway = Clock(), FakeGateway()
        self.generation = 0
        self.link = Link(
            "http://gw:8000/", "rmn_t", self.gateway, self.clock, self.snapshot, lambda: 0.0
        )
        self.events = self.enterContext(capturedLogs())

    @property
    def lines(self) -> list[str]:
        """What was logged of the gateway."""
        ours = (event for event in self.events if "gateway" in event)
        return [str(event.get("why") or event.get("refusal")) for event in ours]

    def snapshot(self) -> Registration:
        self.generation += 1
        return Registration(node="box2", instance="i", generation=self.generation)

    def advance(self, seconds: float) -> None:
        """Let time pass in small steps, which add up exactly."""
        for _ in range(round(seconds * 16)):
            self.clock.advance(1 / 16)

    def assertCalled(self, *urls: str) -> None:
        """These calls, and no others, since this was last asked."""
        self.assertEqual(self.gateway.urls, list(urls))
        self.gateway.calls.clear()


class BeatTests(LinkTestCase):
    def test_it_registers_at_once_with_its_token(self) -> None:
        """The first word is a full registration that carries the node's token."""
        self.link.start()
        (call,) = self.gateway.calls
        self.assertEqual((call.method, call.url, call.bearer), ("POST", REGISTER, "rmn_t"))
        self.assertEqual(json.loads(call.body or b"")["node"], "box2")

    def test_then_it_beats_at_the_gateways_interval(self) -> None:
        """Heartbeats carry the same body with a growing generation, as often as was asked."""
        self.gateway.heartbeat = 2.0
        self.link.start()
        self.advance(6.1)
        self.assertCalled(REGISTER, HEARTBEAT, HEARTBEAT, HEARTBEAT)
        self.assertEqual(self.generation, 4)

    def test_a_foolish_interval_is_bounded(self) -> None:
        """A gateway cannot make the agent flood it, or fall silent."""
        self.gateway.heartbeat = 0.0
        self.link.start()
        self.advance(1.1)
        self.assertEqual(len(self.gateway.calls), 3)

    def test_a_change_is_told_at_once_and_gathered(self) -> None:
        """Three changes in one moment are one report, and the beat goes on from there."""
        self.link.start()
        self.advance(1)
        for _ in range(3):
            self.link.changed()
        self.advance(0.1)
        self.assertCalled(REGISTER, HEARTBEAT)
        self.advance(4.8)
        self.assertCalled()
        self.advance(0.2)
        self.assertCalled(HEARTBEAT)

    def test_a_change_while_a_report_is_under_way_is_told_after_it(self) -> None:
        """No two reports overlap, and no change is lost between them."""
        self.link.start()
        self.gateway.wait()
        self.advance(5)
        self.link.changed()
        self.advance(3)
        self.assertCalled(REGISTER, HEARTBEAT)
        hold, self.gateway.hold = self.gateway.hold, None
        assert hold is not None
        hold.callback(None)
        self.advance(0.1)
        self.assertCalled(HEARTBEAT)

    def test_A24_a_gateway_that_forgot_us_is_told_all_at_once(self) -> None:
        """410 is followed by a registration in the same moment, and heartbeats after it."""
        for status in (410, 404):
            self.link.start()
            self.gateway.calls.clear()
            self.gateway.statuses = [status]
            self.advance(5)
            self.assertCalled(HEARTBEAT, REGISTER)
            self.assertIs(self.link.standing, Standing.REGISTERED)

    def test_a_refused_backend_is_said_once(self) -> None:
        """What the gateway does not take is logged when it changes, not at every beat."""
        self.gateway.refused = [{"backend": "gpu0", "code": "role_not_allowed", "message": "no"}]
        self.link.start()
        self.advance(20)
        self.assertEqual(self.lines, ["registered", "gpu0: no (role_not_allowed)"])


class TroubleTests(LinkTestCase):
    def test_A23_a_gateway_that_is_away_is_tried_for_ever(self) -> None:
        """1, 2, 4 … 30 seconds between tries, one line for all of them."""
        self.gateway.away = True
        self.link.start()
        self.advance(1 + 2 + 4 + 8 + 16 + 30 + 30 + 1)
        self.assertCalled(*[REGISTER] * 8)
        self.assertEqual(self.lines, ["not told: " + str(ConnectionRefusedError())])

    def test_A24_when_it_is_back_all_is_told(self) -> None:
        """The next try is a full registration, and the pauses begin anew."""
        self.link.start()
        self.gateway.away = True
        self.advance(5)
        self.gateway.away = False
        self.gateway.calls.clear()
        self.advance(1)
        self.assertCalled(REGISTER)
        self.assertEqual(len(self.lines), 3)

    def test_A23_a_change_does_not_hurry_a_gateway_that_is_away(self) -> None:
        """Changes are not queued and do not break the pause; the next try tells the last state."""
        self.gateway.away = True
        self.link.start()
        self.link.changed()
        self.advance(0.9)
        self.assertCalled(REGISTER)

    def test_A25_a_refused_token_is_not_hammered(self) -> None:
        """After 401 and 403 a minute passes."""
        self.gateway.statuses = [401, 403]
        self.link.start()
        self.advance(59)
        self.assertCalled(REGISTER)
        self.advance(2)
        self.assertCalled(REGISTER)
        self.assertEqual(self.lines, ["it refuses us: because"])
        self.assertIs(self.link.standing, Standing.REFUSED)

    def test_A40_answers_of_no_gateway_are_trouble(self) -> None:
        """Redirects, errors and nonsense are retried like silence; nothing in them is followed."""
        self.gateway.statuses = [302, 500]
        self.gateway.body = b'{"node": 5}'
        self.link.start()
        self.advance(3.1)
        self.assertCalled(REGISTER, REGISTER, REGISTER)
        self.assertIs(self.link.standing, Standing.UNREACHABLE)


class FarewellTests(LinkTestCase):
    def test_A19_leaving_is_told_in_two_seconds_at_most(self) -> None:
        """A registered node says that it goes, and tells no more."""
        self.link.start()
        self.gateway.calls.clear()
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2")))
        (call,) = self.gateway.calls
        self.assertEqual((call.method, call.url, call.timeout), ("DELETE", NODE, 2.0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_A19_a_gateway_that_is_away_does_not_hold_up_the_stop(self) -> None:
        """Nobody says good-bye to who is not there."""
        self.gateway.away = True
        self.link.start()
        self.gateway.calls.clear()
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2")))
        self.assertCalled()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_report_under_way_cannot_follow_the_farewell(self) -> None:
        """What was being told is cancelled first, so that the node does not come back."""
        self.link.start()
        self.gateway.wait()
        self.advance(5)
        self.link.changed()
        hold, self.gateway.hold = self.gateway.hold, None
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2")))
        assert hold is not None
        self.assertEqual(self.gateway.cancelled, 1)
        self.assertCalled(REGISTER, HEARTBEAT, NODE)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_farewell_that_fails_is_no_failure(self) -> None:
        """The stop goes on when the gateway goes away in that moment."""
        self.link.start()
        self.gateway.away = True
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2")))


class ReporterTests(LinkTestCase):
    def test_gateways_do_not_wait_for_each_other(self) -> None:
        """One that is silent does not hold up what another one is told."""
        silent = FakeGateway()
        silent.wait()
        other = Link("http://b:8000", None, silent, self.clock, self.snapshot, lambda: 0.0)
        reporter = Reporter([other, self.link], "box2")
        reporter.start()
        self.advance(5)
        reporter.changed()
        self.advance(0.1)
        self.assertCalled(REGISTER, HEARTBEAT, HEARTBEAT)
        self.assertEqual(silent.urls, ["http://b:8000/v1/nodes/register"])
        self.successResultOf(Deferred.fromCoroutine(reporter.stop()))
        self.assertEqual(silent.cancelled, 1)
