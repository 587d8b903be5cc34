"""The promises of `rolemesh.gateway.records`."""

import json
from typing import Any

from twisted.internet.task import Clock
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import provider

from rolemesh.core.attempts import Outcome, Try
from rolemesh.core.model import BackendId
from rolemesh.core.routing import Score
from rolemesh.core.usage import Timings, Usage
from rolemesh.gateway import records
from rolemesh.gateway.records import Record, Records

GPU0 = BackendId("box2", "gpu0")


class RecordsTests(SynchronousTestCase):
    """What is remembered of requests, and what is logged."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.records = Records(self.clock, lambda: 1000.0)
        self.logged: list[dict[str, Any]] = []
        hear = provider(ILogObserver)(lambda event: self.logged.append(event))
        globalLogPublisher.addObserver(hear)
        self.addCleanup(globalLogPublisher.removeObserver, hear)

    def served(self) -> Record:
        """The record of a request that was served at the second try."""
        record = self.records.open("r1", "/v1/chat/completions")
        record.role, record.backend, record.model, record.status = "coder", GPU0, "qwen", 200
        record.tries = [
            Try(BackendId("a", "b"), Outcome.REFUSED, 0.1),
            Try(GPU0, Outcome.SERVED, 1),
        ]
        record.scores = (Score(GPU0, 0.5), Score(BackendId("a", "b"), refusal="no"))
        record.usage = Usage(10, 5, 2, Timings(2, 8, 20.0, 5, 100.0))
        self.clock.advance(0.25)
        self.records.answering(record)
        self.clock.advance(1)
        record.size, record.end = 99, "complete"
        self.records.close(record)
        return record

    def test_times(self) -> None:
        """Times are measured on the clock, and the moment is told by the wall's."""
        told = self.served().as_json()
        self.assertEqual((told["first_byte_ms"], told["duration_ms"]), (250.0, 1250.0))
        self.assertEqual(told["at"], 1000.0)

    def test_json(self) -> None:
        """A record is JSON, and has the tries, the candidates and the account."""
        told = json.loads(json.dumps(self.served().as_json()))
        outcomes = [each["outcome"] for each in told["attempts"]]
        self.assertEqual(outcomes, ["refused", "served"])
        self.assertEqual(
            told["candidates"],
            [{"backend": "box2/gpu0", "seconds": 0.5}, {"backend": "a/b", "refused": "no"}],
        )
        account = (told["usage"]["prompt"], told["usage"]["completion"], told["usage"]["cached"])
        self.assertEqual(account, (10, 5, 2))

    def test_under_way(self) -> None:
        """A request that is not over is found, and says so."""
        self.records.open("r1", "/v1/embeddings")
        record = self.records.get("r1")
        assert record is not None
        told = record.as_json()
        self.assertEqual((told["end"], told["status"]), ("under way", None))

    def test_log_line(self) -> None:
        """The end of a request is one line with its id, role, backend, status, times and tokens."""
        self.served()
        (line,) = self.logged
        wanted = {
            "http.request.id": "r1",
            "rolemesh.role": "coder",
            "rolemesh.node": "box2",
            "rolemesh.backend": "gpu0",
            "http.response.status_code": 200,
            "http.response.body.bytes": 99,
            "rolemesh.ttfb_ms": 250.0,
            "event.duration": 1_250_000_000,
            "gen_ai.usage.input_tokens": 10,
            "gen_ai.usage.output_tokens": 5,
        }
        self.assertEqual({name: line.get(name) for name in wanted}, wanted)

    def test_log_line_leaves_out_what_is_unknown(self) -> None:
        """What nobody told is no field of the line."""
        self.records.close(self.records.open("r1", "/v1/embeddings"))
        (line,) = self.logged
        self.assertNotIn("gen_ai.usage.input_tokens", line)
        self.assertNotIn("rolemesh.role", line)

    def test_bounded(self) -> None:
        """The latest are kept, and the oldest is forgotten for one too many."""
        self.patch(records, "KEPT", 3)
        for name in "abcd":
            self.records.open(name, "/")
        self.assertIsNone(self.records.get("a"))
        self.assertIsNotNone(self.records.get("b"))

    def test_last(self) -> None:
        """The latest request that is over is found, of one key where there are keys."""
        for name, key in (("a", "k1"), ("b", "k2")):
            record = self.records.open(name, "/")
            record.key = key
            self.records.close(record)
        self.records.open("c", "/", "k1")
        last = {key: self.records.last(key) for key in ("k1", "k2", "k3", None)}
        ids = {key: record and record.id for key, record in last.items()}
        self.assertEqual(ids, {"k1": "a", "k2": "b", "k3": None, None: "b"})

    def test_same_id_twice(self) -> None:
        """An id that a client uses again names its latest request, and pushes nobody out early."""
        self.patch(records, "KEPT", 2)
        self.records.open("a", "/1")
        self.records.open("b", "/")
        self.records.open("a", "/2")
        self.records.open("c", "/")
        record = self.records.get("a")
        self.assertEqual(record and record.path, "/2")
