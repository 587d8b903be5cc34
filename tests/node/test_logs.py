"""What a server writes: cut, harmless, limited, and never a secret."""

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.node.logs import (
    LONGEST_LINE,
    LineCutter,
    ServerLog,
    harmless,
)


class LineCutterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.lines: list[bytes] = []
        self.cutter = LineCutter(self.lines.extend)

    def test_A27_lines_come_whole_however_they_were_cut(self) -> None:
        """A line that arrives in pieces is one line."""
        for piece in (b"o", b"ne\ntw", b"o\n\nth", b"ree"):
            self.cutter.feed(piece)
        self.assertEqual(self.lines, [b"one", b"two", b""])
        self.cutter.flush()
        self.assertEqual(self.lines[3:], [b"three"])

    def test_a_flush_without_a_rest_is_nothing(self) -> None:
        """No empty line appears at the end."""
        self.cutter.feed(b"one\n")
        self.cutter.flush()
        self.assertEqual(self.lines, [b"one"])

    def test_A27_a_long_line_is_cut_and_says_by_how_much(self) -> None:
        """Of a line beyond 8 KiB the beginning is kept, whole or in pieces."""
        marked = b"x" * 8192 + "…+5".encode()
        self.cutter.feed(b"a\n" + b"x" * (8192 + 5) + b"\n")
        self.cutter.feed(b"x" * 8192)
        self.cutter.feed(b"xxxxx\nb\n")
        self.assertEqual(self.lines, [b"a", marked, marked, b"b"])

    def test_A27_a_line_without_end_holds_no_memory(self) -> None:
        """100 MB without a newline are counted, not kept."""
        for _ in range(1600):
            self.cutter.feed(b"x" * 65536)
        self.cutter.flush()
        excess = 1600 * 65536 - LONGEST_LINE
        self.assertEqual(self.lines, [b"x" * LONGEST_LINE + f"…+{excess}".encode()])


class HarmlessTests(SynchronousTestCase):
    def test_A27_nothing_paints_or_forges(self) -> None:
        """Escape sequences, NUL, carriage returns and line separators are gone."""
        line = b"\x1b[31mred\x1b[0m \x1b]0;title\x07a\0b\rc\xe2\x80\xa8d\te\r"
        self.assertEqual(harmless(line), "red abcd\te")

    def test_A27_bytes_that_are_no_text_stay_visible(self) -> None:
        """Invalid UTF-8 is written out, and what is valid stays."""
        self.assertEqual(harmless(b"\xff ok \xc3\xa4"), "\\xff ok ä")

    def test_secrets_are_starred(self) -> None:
        """A key is not told, wherever it stands in the line."""
        self.assertEqual(harmless(b"key=abc, again abc", ["abc"]), "key=***, again ***")


class ServerLogTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.log = ServerLog(self.clock, "gpu0")
        self.events = self.enterContext(capturedLogs())

    @property
    def told(self) -> list[object]:
        return [event["line"] for event in self.events if event.get("rolemesh.backend") == "gpu0"]

    def test_each_line_is_told_with_its_backend(self) -> None:
        """A line goes to our log as one event that names the server."""
        self.log.cutter().feed(b"loading\nready\n")
        self.assertEqual(self.told, ["loading", "ready"])

    def test_two_streams_do_not_mix_within_a_line(self) -> None:
        """Half a line of one stream is not glued to the other's."""
        out, err = self.log.cutter(), self.log.cutter()
        out.feed(b"on")
        err.feed(b"two\n")
        out.feed(b"e\n")
        self.assertEqual(self.log.tail(9), ["two", "one"])

    def test_A28_a_flood_is_limited_and_counted(self) -> None:
        """200 lines a second pass; how many did not is said when there is room again."""
        cutter = self.log.cutter()
        cutter.feed(b"x\n" * 1000)
        self.assertEqual(len(self.told), 200)
        self.clock.advance(1)
        cutter.feed(b"y\n")
        self.assertEqual(self.told[-2:], ["dropped 800 lines", "y"])

    def test_A28_the_ring_keeps_the_last_lines(self) -> None:
        """A flood neither fills memory nor pushes out what was said last."""
        for number in range(1000):
            self.log.cutter().feed(b"%d\n" % number)
        self.assertEqual(self.log.tail(2), ["998", "999"])
        self.assertEqual(len(self.log.tail(1000)), 200)

    def test_a_new_start_has_lines_of_its_own(self) -> None:
        """The cause of an exit is not looked for in an earlier start's lines."""
        self.log.cutter().feed(b"old\n")
        self.log.begin(["secret"])
        self.log.cutter().feed(b"new secret\n")
        self.assertEqual(self.log.tail(9), ["new ***"])
        self.assertEqual(self.told[-1], "new ***")

    def test_behind_a_mark_of_another_agent(self) -> None:
        """Of a server that outlived its agent, the lines that were told are not told again; where
        none of them is kept any more, all are told."""
        lines = [b"line %d" % number for number in range(20)]
        self.log.cutter().feed(b"".join(line + b"\n" for line in lines[:15]))
        mark = self.log.mark()
        self.clock.advance(1)
        for kept in (lines, lines[4:]):
            heir = ServerLog(self.clock, "gpu0")
            heir.begin(())
            heir.recall(kept)
            heir.cutter().feed(b"next\n")
            told = [line.decode() for line in (*lines[15:], b"next")]
            self.assertEqual(heir.since(mark), (told, 0))
        heir = ServerLog(self.clock, "gpu0")
        heir.recall(lines[12:])
        self.assertEqual(len(heir.since(mark)[0]), 8)

    def test_a_new_process_says_the_same(self) -> None:
        """Lines that another process has said before in the same words are told all the same."""
        self.log.cutter().feed(b"loading\n")
        mark = self.log.mark()
        self.clock.advance(1)
        heir = ServerLog(self.clock, "gpu0")
        heir.begin(())
        heir.cutter().feed(b"loading\nready\n")
        self.assertEqual(heir.since(mark), (["loading", "ready"], 0))
