"""What a person is shown of the programs' log lines."""

import json

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.demo.lines import Narrator, request_line

SERVED = {
    "@timestamp": "2026-11-22T10:00:00.000Z",
    "log.level": "info",
    "log.logger": "rolemesh.gateway.records",
    "message": "planner 200 stop",
    "http.response.status_code": 200,
    "rolemesh.role": "planner",
    "rolemesh.node": "demo",
    "rolemesh.backend": "thinker",
    "rolemesh.ttfb_ms": 12.4,
    "event.duration": 310_000_000,
    "gen_ai.usage.output_tokens": 24,
}
STATE = {"log.level": "info", "log.logger": "rolemesh.node.supervisor", "message": "it starts"}


class RequestLines(SynchronousTestCase):
    """`request_line`."""

    def test_served(self) -> None:
        """Role, place, status and figures stand in one line."""
        line = request_line(SERVED) or ""
        shown = "planner  -> demo/thinker  200  first byte 12 ms, done 310 ms, 24 tokens"
        self.assertEqual(line.partition("  ")[2], shown)

    def test_refused(self) -> None:
        """A refusal shows its path and its code, as it has neither role nor place."""
        event = {"http.response.status_code": 404, "url.path": "/v1/x", "error.code": "unknown_url"}
        self.assertEqual(request_line(event), "--:--:--  /v1/x  -> nobody  404  unknown_url")

    def test_other_events(self) -> None:
        """What is no request for a role has no line: states, heartbeats, lists of models."""
        self.assertIsNone(request_line(STATE))
        self.assertIsNone(request_line({"http.response.status_code": 200, "url.path": "/health"}))


class Telling(SynchronousTestCase):
    """`Narrator`."""

    def setUp(self) -> None:
        self.said: list[str] = []
        self.narrator = Narrator(self.said.append)

    def hear(self, event: object) -> None:
        self.narrator("node", json.dumps(event).encode())

    def test_start_is_told(self) -> None:
        """Before it is quiet, our programs' lines are told, and no library's or server's."""
        self.hear(STATE)
        self.hear({**STATE, "log.logger": "twisted.web.client", "message": "noise"})
        self.hear({**STATE, "log.logger": "rolemesh.node.logs.Log", "message": "load_model: …"})
        self.assertEqual(self.said, ["     node: it starts"])

    def test_quiet_tells_requests_and_trouble(self) -> None:
        """Once quiet, only requests and warnings are told."""
        self.narrator.quiet = True
        self.hear(STATE)
        self.hear(SERVED)
        self.hear({**STATE, "log.level": "warn", "message": "it burns"})
        self.assertEqual(len(self.said), 2)
        self.assertIn("24 tokens", self.said[0])
        self.assertEqual(self.said[1], "     node: it burns")

    def test_plain_text_is_told(self) -> None:
        """A line that is not JSON, as of a program that could not start, is told as it is."""
        self.narrator.quiet = True
        self.narrator("gateway", b"cannot listen on tcp:1")
        self.narrator("gateway", b"")
        self.assertEqual(self.said, ["  gateway: cannot listen on tcp:1"])
