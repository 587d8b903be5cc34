"""JSON lines: what they say, what they hide, and that nobody who logs ever waits."""

import json
import os
from pathlib import Path
from typing import Any

from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.logs import MAX_LINES, MAX_TEXT, JsonLines, json_line
from rolemesh.ownfile import OwnFile

EVENT = {"log_time": 1763804096.1234, "log_namespace": "somewhere", "log_level": LogLevel.warn}


def told(message: str = "{text}", **fields: Any) -> dict[str, Any]:
    """The line of an event, read again."""
    line = json_line({**EVENT, "log_format": message, **fields})
    read: dict[str, Any] = json.loads(line)
    return read


class LineTests(SynchronousTestCase):
    def test_fields(self) -> None:
        """A line has the time in UTC with milliseconds, the level, the logger and the message."""
        self.assertEqual(
            told("{role} is {state}", role="coder", state="ready"),
            {
                "@timestamp": "2025-11-22T09:34:56.123Z",
                "log.level": "warn",
                "log.logger": "somewhere",
                "message": "coder is ready",
            },
        )

    def test_dotted_keys(self) -> None:
        """A key with a dot is a field of the line, its numbers still numbers."""
        line = told(
            "done", **{"rolemesh.role": "coder", "event.duration": 12, "a.b": {"c": (1.5,)}}
        )
        self.assertEqual(line["rolemesh.role"], "coder")
        self.assertEqual(line["event.duration"], 12)
        self.assertEqual(line["a.b"], {"c": [1.5]})

    def test_failure(self) -> None:
        """A failure is told by type, message and stack."""
        try:
            raise ValueError("no such thing as rmk_secret")
        except ValueError:
            line = told("it broke", log_failure=Failure())
        self.assertEqual(line["error.type"], "builtins.ValueError")
        self.assertEqual(line["error.message"], "no such thing as rmk_***")
        self.assertIn("test_failure", line["error.stack_trace"])
        self.assertNotIn("rmk_secret", line["error.stack_trace"])

    def test_secrets(self) -> None:
        """Keys, tokens and the user part of URLs are hidden, wherever they stand."""
        for secret, hidden in (
            ("key rmk_ab-C_9 of", "key rmk_*** of"),
            ("key rmk_ab23cd45_S-3 of rmk_ab23cd45", "key rmk_ab23cd45_*** of rmk_ab23cd45"),
            ("code rmj_AbC", "code rmj_***"),
            ("token rmn_abc.", "token rmn_***."),
            ("'rma_abc'", "'rma_***'"),
            ("sk-proj-abcdefgh", "sk-***"),
            ("{'Authorization': 'Bearer abc.d=='}", "{'Authorization': 'Bearer ***'}"),
            ("authorization: bearer\nabc", "authorization: bearer ***"),
            ("http://me:pw@box:80/v1", "http://***@box:80/v1"),
            ("http://box/v1?key=abc&a=b", "http://box/v1?key=***&a=b"),
            ("/v1?a=b&api_key=abc", "/v1?a=b&api_key=***"),
        ):
            self.assertEqual(told(text=secret)["message"], hidden)
            self.assertEqual(told("", **{"a.b": [{secret: secret}]})["a.b"], [{hidden: hidden}])

    def test_control_characters(self) -> None:
        """No character of a line can steer a terminal or begin another line."""
        line = json_line(
            {**EVENT, "log_format": "{text}", "text": "a\r\n\x1b[2J\x7f\x9b\u2028\ud800"}
        )
        self.assertEqual(line.count(b"\n"), 1)
        self.assertTrue(all(32 <= byte < 127 for byte in line[:-1]))

    def test_length(self) -> None:
        """A text that is too long is cut."""
        self.assertEqual(len(told(text="x" * 100_000)["message"]), MAX_TEXT)

    def test_what_cannot_be_told(self) -> None:
        """Whatever an event holds, it is a line."""

        class Rude:
            def __str__(self) -> str:
                raise RuntimeError

        self.assertEqual(told("", **{"a.b": Rude()})["error.type"], "RuntimeError")
        self.assertEqual(told("", **{"a.b": float("nan")})["a.b"], "nan")


class JsonLinesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.reader, self.writer = os.pipe()
        self.observer = JsonLines(self.writer, max_lines=100)
        self.log = Logger("somewhere", observer=self.observer)

    def read(self) -> list[dict[str, Any]]:
        """The whole lines that the pipe has."""
        return [json.loads(line) for line in os.read(self.reader, 1 << 20).splitlines()]

    def test_order(self) -> None:
        """Lines come out as they went in; one with `log_last` is out when its call returns."""
        for number in range(90):
            self.log.info("{number}", number=number)
        self.log.info("the last", log_last=True)
        messages = [line["message"] for line in self.read()]
        self.assertEqual(messages, [*map(str, range(90)), "the last"])

    def test_noise(self) -> None:
        """That Twisted starts a factory for each connection is no line."""
        self.log.info("Starting factory {factory!r}", factory=self)
        self.log.info("the last", log_last=True)
        self.assertEqual([line["message"] for line in self.read()], ["the last"])

    def test_A31_a_full_file_is_moved_aside(self) -> None:
        """Before the next line, of which none is lost."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder.absolute() / "log"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        observer = JsonLines(descriptor, file=OwnFile(descriptor, path, cap=100))
        for number in range(3):
            text = f"{number} " + "x" * 100
            Logger("somewhere", observer=observer).info("{text}", text=text, log_last=True)
        for number, name in enumerate(("log.2", "log.1", "log")):
            (line,) = (folder / name).read_text().splitlines()
            self.assertEqual(json.loads(line)["message"][0], str(number))

    def test_L14_nobody_reads(self) -> None:
        """A full pipe blocks nobody: lines are dropped, counted, and confessed once it is read."""
        self.assertEqual(MAX_LINES, 10_000)
        for _ in range(1000):
            self.log.info("x" * 1000)
        dropped = self.observer.dropped
        self.assertGreater(dropped, 500)
        seen = b""
        while not self.observer.flush():
            seen += os.read(self.reader, 1 << 20)
        seen += os.read(self.reader, 1 << 20)
        lines = [json.loads(line) for line in seen.splitlines()]
        confessed = [line.get("rolemesh.log.dropped", 0) for line in lines]
        self.assertEqual(sum(confessed), dropped)
        self.assertEqual(confessed.count(0) + dropped, 1000)

    def test_L14_closed(self) -> None:
        """A pipe that nobody will ever read raises nothing; what was lost is counted."""
        os.close(self.reader)
        self.log.info("hello", log_last=True)
        self.log.info("anyone", log_last=True)
        self.assertGreaterEqual(self.observer.dropped, 2)

    def test_not_blocking(self) -> None:
        """A descriptor that another program made non-blocking loses nothing."""
        os.set_blocking(self.writer, False)
        for _ in range(100):
            self.log.info("x" * 2000)
        lines: list[bytes] = []
        while len(lines) < 100:
            lines += os.read(self.reader, 1 << 20).split(b"\n")[:-1]
        self.assertEqual(self.observer.dropped, 0)
