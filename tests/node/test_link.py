"""How a node keeps one gateway informed: on a Clock, against a gateway of words."""

import json
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.report import Registration
from rolemesh.node.calls import Answer, Caller
from rolemesh.node.link import Link, Standing
from rolemesh.tls.client import Untrusted

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
        self.untrusted = ""
        self.heartbeat = 5.0
        self.refused: list[dict[str, str]] = []
        self.body: bytes | None = None
        self.hold: Deferred[None] | None = None
        self.retry_after: float | None = None
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
        if self.untrusted:
            raise Untrusted(self.untrusted)
        if self.away:
            raise ConnectionRefusedError()
        return self.answer(self.statuses.pop(0) if self.statuses else 200)

    def answer(self, status: int) -> Answer:
        if status != 200:
            message = {"error": {"message": "because", "code": "x"}}
            return Answer(status, json.dumps(message).encode(), self.retry_after)
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
        self.chance = 0.0
        self.on_snapshot: Callable[[], None] = lambda: None
        self.link = self.new_link()
        self.events = self.enterContext(capturedLogs())

    def new_link(self, chance: float | None = None) -> Link:
        return Link(
            "http://gw:8000/",
            "rmn_t",
            self.gateway,
            self.clock,
            self.snapshot,
            lambda: self.chance if chance is None else chance,
        )

    @property
    def lines(self) -> list[str]:
        """What was logged of the gateway."""
        ours = (event for event in self.events if "gateway" in event)
        return [str(event.get("why") or event.get("refusal")) for event in ours]

    def snapshot(self) -> Registration:
        self.on_snapshot()
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

    def test_N10_a_gateway_that_heard_enough_is_told_when_it_says(self) -> None:
        """What changes meanwhile is told then, and no trouble is made of it."""
        self.link.start()
        self.gateway.statuses, self.gateway.retry_after = [429], 2.0
        self.on_snapshot = self.link.changed
        self.advance(5)
        self.assertCalled(REGISTER, HEARTBEAT)
        self.on_snapshot = lambda: None
        self.link.changed()
        self.advance(1.9)
        self.assertCalled()
        self.assertIs(self.link.standing, Standing.REGISTERED)
        self.assertIn("429: because", self.link.about().trouble)
        self.advance(0.2)
        self.assertCalled(HEARTBEAT)
        self.advance(5)
        self.assertCalled(HEARTBEAT)

    def test_N10_a_foolish_time_is_bounded(self) -> None:
        """It cannot make the agent flood it, nor fall silent; without one a second will do."""
        for told, wait in ((0.0, 1 / 16), (1e9, 60), (None, 1)):
            self.link = self.new_link()
            self.gateway.statuses, self.gateway.retry_after = [200, 429], told
            self.link.start()
            self.advance(5)
            self.assertCalled(REGISTER, HEARTBEAT)
            self.advance(wait - 1 / 16)
            self.assertCalled()
            self.advance(1 / 16)
            self.assertCalled(HEARTBEAT)
            self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2", False)))

    def test_N10_too_many_registrations(self) -> None:
        """A gateway that does not know us yet is told again when it says as well."""
        self.gateway.statuses, self.gateway.retry_after = [429], 20.0
        self.link.start()
        self.assertIs(self.link.standing, Standing.UNREACHABLE)
        self.advance(19.9)
        self.assertCalled(REGISTER)
        self.advance(0.2)
        self.assertCalled(REGISTER)
        self.assertIs(self.link.standing, Standing.REGISTERED)

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

    def test_A34_what_a_look_before_the_report_finds_is_no_second_report_beside_it(self) -> None:
        """A machine that woke is told as it is now; the change follows after that."""
        self.link.start()
        self.advance(4)
        self.gateway.calls.clear()
        self.on_snapshot = self.link.changed
        self.gateway.wait()
        self.advance(3)
        self.assertCalled(HEARTBEAT)
        self.on_snapshot = lambda: None
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
        """1, 2, 4, 5, 5 … seconds between tries, 12 after ten minutes, less up to four tenths."""
        self.gateway.away = True
        self.chance = 1.0
        self.link.start()
        self.advance(1 + 2 + 4 + 5 + 5 + 1)
        self.assertCalled(*[REGISTER] * 6)
        self.advance(600)
        self.gateway.calls.clear()
        self.advance(120)
        self.assertCalled(*[REGISTER] * 10)
        self.advance(3600)
        self.assertEqual(len(self.gateway.calls), 300)

    def test_A23_a_trouble_that_lasts_is_told_every_ten_minutes(self) -> None:
        """One line when it begins, one each ten minutes, one when it is over: no line a try."""
        self.gateway.away = True
        self.link.start()
        self.advance(599)
        refused = "not told: " + str(ConnectionRefusedError())
        self.assertEqual(self.lines, [refused])
        self.advance(630)
        self.assertEqual(self.lines, [refused] * 3)
        self.gateway.away = False
        self.advance(12)
        self.assertEqual(self.lines, [refused] * 3 + ["registered"])

    def test_A23_only_the_last_state_is_kept_for_it(self) -> None:
        """An hour's reports do not come in a row: the first that arrives is the newest."""
        self.gateway.away = True
        self.link.start()
        self.advance(3600)
        self.gateway.away = False
        self.gateway.calls.clear()
        self.advance(12)
        (first, *_) = self.gateway.calls
        told = json.loads(first.body or b"")["generation"]
        self.assertGreaterEqual(told, self.generation - 1)

    def test_A24_after_a_minute_away_all_is_told_within_five_seconds(self) -> None:
        """So that its backends are routable again within ten; whatever the chance is."""
        for self.chance in (0.0, 0.5, 1.0):
            link = self.new_link()
            self.gateway.away = True
            link.start()
            self.advance(60)
            self.gateway.away = False
            self.gateway.calls.clear()
            self.advance(5)
            self.assertEqual(self.gateway.urls[0], REGISTER)
            self.assertIs(link.standing, Standing.REGISTERED)
            self.successResultOf(Deferred.fromCoroutine(link.stop("box2")))

    def test_A24_a_state_that_is_unavailable_is_tried_on_the_beat(self) -> None:
        """503 for a minute: no try waits longer than a beat."""
        self.gateway.statuses = [503] * 12
        self.chance = 1.0
        self.link.start()
        self.advance(60)
        self.assertGreaterEqual(len(self.gateway.calls), 12)
        self.assertIs(self.link.standing, Standing.REGISTERED)

    def test_A24_fifty_nodes_do_not_come_at_one_instant(self) -> None:
        """A gateway that is back after a minute hears them over two seconds, not all at once."""
        self.gateway.away = True
        for number in range(50):
            self.chance = number / 49
            self.new_link(chance=self.chance).start()
        self.advance(60)
        self.gateway.away = False
        self.gateway.calls.clear()
        most = 0
        for _ in range(5 * 16):
            before = len(self.gateway.calls)
            self.clock.advance(1 / 16)
            most = max(most, len(self.gateway.calls) - before)
        self.assertGreaterEqual(len(self.gateway.calls), 50)
        self.assertLess(most, 10)

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
        self.advance(0.5)
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
        told = self.link.about()
        self.assertEqual((told.standing, told.trouble), ("refused", "it refuses us: because"))

    def test_another_agent_with_our_name_is_told_as_a_refusal(self) -> None:
        """Such a gateway is reached and says no; it is asked as often as one that is away."""
        self.gateway.statuses = [409]
        self.link.start()
        self.assertIs(self.link.standing, Standing.REFUSED)
        self.assertEqual(self.link.about().trouble, "not told: it refuses us: because")
        self.advance(2)
        self.assertIs(self.link.standing, Standing.REGISTERED)

    def test_A40_answers_of_no_gateway_are_trouble(self) -> None:
        """Redirects, errors and nonsense are retried like silence; nothing in them is followed."""
        self.gateway.statuses = [302, 500]
        self.gateway.body = b'{"node": 5}'
        self.chance = 1.0
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

    def test_who_is_not_left_is_told_nothing(self) -> None:
        """An agent whose servers go on says no farewell."""
        self.link.start()
        self.gateway.calls.clear()
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2", farewell=False)))
        self.assertCalled()
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StandingTests(LinkTestCase):
    def test_a_registered_one_tells_since_when_and_until_when(self) -> None:
        """And what went wrong before, as long as nothing else did."""
        self.gateway.away = True
        self.link.start()
        self.gateway.away = False
        self.advance(1)
        self.advance(2)
        about = self.link.about()
        self.assertEqual((about.standing, about.said), ("registered", "registered"))
        self.assertAlmostEqual(about.since, 2.375)
        self.assertAlmostEqual(about.next_in or 0, 2.625)
        self.assertEqual(about.trouble, "not told: " + str(ConnectionRefusedError()))

    def test_one_that_is_away_tells_the_next_try(self) -> None:
        """For how long it has been away, and when it is tried again."""
        self.chance = 1.0
        self.gateway.away = True
        self.link.start()
        self.advance(2)
        about = self.link.about()
        self.assertEqual((about.standing, about.since, about.next_in), ("unreachable", 2, 1))

    def test_while_it_is_asked_there_is_no_next_time(self) -> None:
        """The answer decides."""
        self.gateway.wait()
        self.link.start()
        self.assertIsNone(self.link.about().next_in)
        self.successResultOf(Deferred.fromCoroutine(self.link.stop("box2")))


class UntrustedTests(LinkTestCase):
    """A26: a gateway whose certificate is wrong."""

    def test_A26_slowly_and_told(self) -> None:
        """It is tried once a minute, the status says why, and the log does so once."""
        self.gateway.untrusted = "its certificate is not for gw"
        self.link.start()
        standing = self.link.about()
        self.assertEqual((standing.standing, standing.said), ("untrusted", self.gateway.untrusted))
        self.advance(179)
        self.assertEqual(len(self.gateway.calls), 3)
        self.assertEqual(self.lines, [self.gateway.untrusted])

    def test_A26_trusted_again(self) -> None:
        """With a good certificate it is told as before."""
        self.gateway.untrusted = "its key is not one that is pinned"
        self.link.start()
        self.gateway.untrusted = ""
        self.advance(61)
        self.assertIs(self.link.standing, Standing.REGISTERED)
