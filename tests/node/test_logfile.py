"""Output in a file that outlives who reads it."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node import logfile
from rolemesh.node.logfile import READ_EVERY, LogFile, again, fresh


class AtOnce:
    """Does on the spot what is to be done aside."""

    def do(self, job: Callable[..., Any], *arguments: Any) -> "Deferred[Any]":
        done: Deferred[Any] = Deferred()
        done.callback(job(*arguments))
        return done


class LogFileTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.path = Path(self.mktemp())
        self.heard = b""
        self.file = self.open(fresh(self.path))
        self.file.start(self.hear)
        self.writer = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self.addCleanup(os.close, self.writer)

    def open(self, descriptor: int) -> LogFile:
        aside: Any = AtOnce()
        made = LogFile(descriptor, aside, self.clock)
        self.addCleanup(made.leave)
        return made

    def hear(self, data: bytes) -> None:
        self.heard += data

    def write(self, data: bytes) -> None:
        os.write(self.writer, data)

    def test_A20_what_is_written_is_heard_on_the_beat(self) -> None:
        """Also half a line; a beat without news is silent."""
        self.write(b"one\ntw")
        self.clock.advance(READ_EVERY)
        self.clock.advance(READ_EVERY)
        self.assertEqual(self.heard, b"one\ntw")

    def test_A20_the_last_words_are_heard_with_the_end(self) -> None:
        """The cause of an exit is in them; nothing is left open or waiting."""
        self.write(b"error: invalid argument\n")
        self.successResultOf(self.file.finish())
        self.assertEqual(self.heard, b"error: invalid argument\n")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        with self.assertRaises(OSError):
            os.fstat(self.file.descriptor)

    def test_A20_the_next_reader_begins_where_it_is(self) -> None:
        """What an earlier agent has logged is not logged again; its last lines are known."""
        self.write(b"old\nolder\n")
        self.clock.advance(READ_EVERY)
        self.file.leave()
        descriptor, tail = again(self.path)
        self.assertEqual(tail, [b"old", b"older"])
        second = self.open(descriptor)
        self.heard = b""
        second.start(self.hear)
        self.write(b"new\n")
        self.clock.advance(READ_EVERY)
        self.assertEqual(self.heard, b"new\n")

    def test_A20_of_a_long_past_the_end_is_known(self) -> None:
        """Whole lines only."""
        self.patch(logfile, "TAIL", 20)
        self.write(b"a line that is cut\nthe last one\n")
        self.file.leave()
        descriptor, tail = again(self.path)
        os.close(descriptor)
        self.assertEqual(tail, [b"the last one"])

    def test_A31_a_file_that_reaches_its_cap_begins_anew(self) -> None:
        """Every line was heard, and the writer goes on at its beginning."""
        self.patch(logfile, "CAP", 10)
        self.write(b"0123456789\n")
        self.clock.advance(READ_EVERY)
        self.assertEqual(self.path.stat().st_size, 0)
        self.write(b"on\n")
        self.clock.advance(READ_EVERY)
        self.assertEqual(self.heard, b"0123456789\non\n")
        self.assertEqual(self.path.read_bytes(), b"on\n")

    def test_A31_a_file_that_somebody_emptied_or_deleted(self) -> None:
        """What comes after that is heard."""
        self.write(b"first\n")
        self.clock.advance(READ_EVERY)
        os.truncate(self.path, 0)
        self.write(b"2\n")
        self.clock.advance(READ_EVERY)
        self.path.unlink()
        self.write(b"3\n")
        self.clock.advance(READ_EVERY)
        self.assertEqual(self.heard, b"first\n2\n3\n")

    def test_A28_of_a_flood_only_the_end_is_read(self) -> None:
        """And how much was not is said."""
        self.patch(logfile, "AT_ONCE", 4)
        self.patch(logfile, "BACKLOG", 16)
        self.write(b"x" * 100 + b"end\n")
        self.clock.advance(READ_EVERY)
        self.assertIn(b"bytes of its log were not read", self.heard)
        self.assertTrue(self.heard.endswith(b"end\n"))
