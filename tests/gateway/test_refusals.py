from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.gateway.refusals import LINES, SPAN, RefusalLog

FULL = Refusal("rate_limit_exceeded", "too many connections in all")


class RefusalLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.refused = RefusalLog(self.clock)
        self.events = self.enterContext(capturedLogs())

    def test_C6_a_flood_of_connections_is_no_flood_of_lines(self) -> None:
        """A thousand refusals in a moment are twenty lines, and the next one counts the rest."""
        for _ in range(1000):
            self.refused(FULL, "", "192.0.2.7")
        self.assertEqual(len(self.events), LINES)
        self.clock.advance(SPAN)
        self.refused(FULL, "", "192.0.2.7")
        self.assertEqual(self.events[-1]["rolemesh.refusals.untold"], 1000 - LINES)

    def test_a_few_have_a_line_each(self) -> None:
        """With who it was, and what the client was told."""
        self.refused(FULL, "req-1", "192.0.2.7")
        [event] = self.events
        self.assertEqual(event["http.request.id"], "req-1")
        self.assertEqual(event["client.address"], "192.0.2.7")
        self.assertEqual(event["error.code"], "rate_limit_exceeded")
        self.assertEqual(event["http.response.status_code"], 429)
