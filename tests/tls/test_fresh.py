"""The promises of `rolemesh.tls.fresh`: files that change count, and bad ones do not."""

from pathlib import Path

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.tls.fresh import Fresh, TlsProblem


class FreshTests(SynchronousTestCase):
    """What is made of files that change."""

    def setUp(self) -> None:
        self.clock, self.path = Clock(), Path(self.mktemp())
        self.path.write_text("one")
        self.logged = self.enterContext(capturedLogs())
        self.fresh = Fresh(self.clock, [self.path, None], self.make)
        self.fresh.load()

    def make(self) -> str:
        text = self.path.read_text()
        if text == "bad":
            raise TlsProblem("it is bad")
        return text

    def write(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        new.replace(self.path)

    def told(self) -> list[str]:
        return [event["problem"] for event in self.logged if "problem" in event]

    def test_changed(self) -> None:
        """A change counts within a second."""
        self.write("two")
        self.assertEqual(self.fresh.current(), "one")
        self.clock.advance(1)
        self.assertEqual(self.fresh.current(), "two")

    def test_asked(self) -> None:
        """Who reloads does not wait for that."""
        self.write("two")
        self.fresh.reload()
        self.assertEqual(self.fresh.current(), "two")

    def test_bad_files(self) -> None:
        """What cannot be used is told once, and leaves what was; mended, it counts."""
        self.write("bad")
        for _ in range(3):
            self.clock.advance(1)
            self.assertEqual(self.fresh.current(), "one")
        self.assertEqual(self.told(), ["it is bad"])
        self.write("three")
        self.clock.advance(1)
        self.assertEqual(self.fresh.current(), "three")

    def test_bad_at_first(self) -> None:
        """Nothing begins with files that cannot be used."""
        self.write("bad")
        self.assertRaises(TlsProblem, Fresh(self.clock, [self.path], self.make).load)
