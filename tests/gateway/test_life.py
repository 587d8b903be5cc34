"""The promises of `rolemesh.gateway.life`: rows P9 and L1 among them."""

from typing import Any

from twisted.internet.defer import Deferred

from tests.gateway.memory import Client, GatewayCase, Server, role, whole


class LifeCase(GatewayCase):
    """A gateway with one server and a drain of 30 s; `stopped` fires at its end."""

    def setUp(self) -> None:
        super().setUp()
        self.server: Server = self.net.server()
        self.start(role(self.server), drain=30.0)
        self.ports: list[Any] = []

    def stop(self) -> None:
        self.stopped: Deferred[Any] = self.life.stopService()
        self.net.turn()

    def begun(self) -> Client:
        client = self.stream()
        exchange = self.server.work[-1]
        exchange.head()
        exchange.text("one")
        self.turn()
        return client

    def listening(self) -> bool:
        return bool(self.life.listening.ports)


class DrainTests(LifeCase):
    """From the first signal to the last answer."""

    def test_P9_nothing_to_do(self) -> None:
        """An idle gateway stops at once, and leaves nothing with the clock."""
        self.assertTrue(self.listening())
        self.stop()
        self.net.spend(0.5)
        self.successResultOf(self.stopped)
        self.assertFalse(self.listening())
        self.assertEqual(self.net.getDelayedCalls(), [])

    def test_P9_ready_says_no_at_once(self) -> None:
        """While it drains `/ready` is 503, so that balancers look elsewhere; `/health` is not."""
        self.begun()
        self.stop()
        answer = self.get("/ready")
        self.assertEqual((answer.status, answer.json["status"]), (503, "draining"))
        self.assertEqual(self.get("/health").status, 200)

    def test_L1_new_requests(self) -> None:
        """New requests are told to go elsewhere, on a connection that then closes."""
        self.begun()
        kept = self.client()
        self.stop()
        body = {"model": "coder", "messages": []}
        kept.send("POST", "/v1/chat/completions", body, close=False)
        self.assert_refused(kept.answer, 503, "draining")
        self.assertEqual(kept.answer.headers["connection"].lower(), "close")
        self.assertEqual(kept.answer.headers["x-should-retry"], "true")
        self.assertEqual(len(self.server.work), 1)

    def test_P9_port_stays_for_the_grace(self) -> None:
        """The port stays open for as long as balancers need to see it, and no longer."""
        self.begun()
        self.stop()
        self.net.spend(1.75)
        self.assertTrue(self.listening())
        self.net.spend(0.5)
        self.assertFalse(self.listening())

    def test_L1_answers_end(self) -> None:
        """Answers under way are finished, and then the gateway has stopped."""
        client = self.begun()
        self.stop()
        self.net.spend(20)
        self.assertNoResult(self.stopped)
        self.server.work[0].text("two", finish="stop")
        self.server.work[0].done()
        self.turn()
        self.assertEqual(client.answer.text, "onetwo")
        self.assertTrue(client.answer.finished)
        client.leave()
        self.net.spend(2)
        self.successResultOf(self.stopped)

    def test_L1_whole_answers_end(self) -> None:
        """So are those that are not streamed."""
        client = self.ask()
        self.stop()
        self.net.spend(5)
        self.server.work[0].json(200, whole("hi"))
        self.turn()
        self.assertEqual(client.answer.json, whole("hi"))
        client.leave()
        self.net.spend(2)
        self.successResultOf(self.stopped)

    def test_L1_P9_endless(self) -> None:
        """What has not ended within the drain is told so in its stream, and is not a whole one."""
        client = self.begun()
        self.stop()
        self.net.spend(29.5)
        self.assertFalse(client.line.closed)
        self.net.spend(1)
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assertIn("the gateway is stopping", client.answer.events[-1]["error"]["message"])
        self.assertTrue(self.server.work[0].left)
        client.leave()
        self.net.spend(2)
        self.successResultOf(self.stopped)

    def test_L1_not_begun(self) -> None:
        """What was not begun by then is refused, so that its client asks again."""
        client = self.ask()
        self.stop()
        self.net.spend(30.5)
        self.assert_refused(client.answer, 503, "draining")
        self.assertTrue(self.server.work[0].left)

    def test_P9_bounded(self) -> None:
        """The end comes in time, also where a client neither reads nor leaves."""
        client = self.begun()
        client.stop_reading()
        self.server.work[0].text(*["word"] * 100)
        self.stop()
        self.net.spend(35)
        self.successResultOf(self.stopped)

    def test_P9_second_signal(self) -> None:
        """The second signal ends everything now."""
        client = self.begun()
        waiting = self.ask()
        self.stop()
        self.life.hurry()
        self.turn()
        self.assert_broken_off(client.answer, "upstream_disconnected")
        self.assert_refused(waiting.answer, 503, "draining")
        client.leave()
        waiting.leave()
        self.net.spend(3)
        self.successResultOf(self.stopped)

    def test_nobody_is_blamed(self) -> None:
        """What the gateway broke off itself is no failure of the backend's."""
        for _ in range(6):
            self.begun()
        self.life.hurry()
        self.turn()
        self.assertEqual(self.get("/ready").json["roles"]["coder"]["missing"], [])

    def test_checks_end(self) -> None:
        """No backend is asked any more."""
        self.stop()
        self.net.spend(1)
        asked = len(self.server.checks)
        self.net.spend(5)
        self.assertEqual(len(self.server.checks), asked)
