"""Events come out of bytes the same however the bytes were cut, and never without bound."""

import json
from collections.abc import Iterator
from itertools import cycle, pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.openai import Api
from rolemesh.core.sse import (
    DONE,
    KEEP_ALIVE,
    LONGEST_EVENT,
    BrokenStream,
    Event,
    Splitter,
    comment,
    ends_with_done,
    error_event,
    first_data,
    last_name,
)

lines = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12).map(
    str.encode
)
event_parts = st.tuples(
    st.text("abc._", max_size=8).map(str.encode),
    st.lists(lines, min_size=1, max_size=3),
    st.lists(st.sampled_from([b": ping", b":", b"id: 7", b"retry: 1", b"", b"foo"]), max_size=2),
)


def events_of(*pieces: bytes) -> list[Event]:
    splitter = Splitter()
    return [event for piece in pieces for event in splitter.feed(piece)]


def written(parts: list[tuple[bytes, list[bytes], list[bytes]]], ends: Iterator[bytes]) -> bytes:
    out = b""
    for name, data, noise in parts:
        event = [b"event: " + name] if name else []
        event += [b"data: " + line for line in data]
        for line in [*noise, *event, b""]:
            end = next(ends)
            if not line and out.endswith(b"\r") and end == b"\n":
                end = b"\r"  # or the two would read as one CRLF
            out += line + end
    return out


class SplitterTests(SynchronousTestCase):
    @given(
        st.lists(event_parts, max_size=4),
        st.lists(st.sampled_from([b"\n", b"\r\n", b"\r"]), min_size=1, max_size=5),
        st.lists(st.integers(0, 300), max_size=8),
        st.booleans(),
    )
    def test_B25_any_split_gives_the_same_events(self, parts, ends, cuts, marked):
        """Any byte split, mix of line ends, comment and byte order mark gives the same events."""
        stream = (b"\xef\xbb\xbf" if marked else b"") + written(parts, cycle(ends))
        at = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
        pieces = [stream[a:b] for a, b in pairwise(at)]
        expected = [Event(name, b"\n".join(data)) for name, data, _ in parts]
        self.assertEqual(events_of(*pieces), expected)

    def test_B26_split_inside_a_character(self):
        """A character cut in two arrives whole, and bytes that are no UTF-8 pass unharmed."""
        whole = "data: später\n\n".encode()
        for at in range(len(whole)):
            self.assertEqual(events_of(whole[:at], whole[at:]), [Event(b"", "später".encode())])
        self.assertEqual(events_of(b"data: \xff\n\n"), [Event(b"", b"\xff")])

    def test_carriage_return_ends_an_event_at_once(self):
        """A lone CR at the end of a piece does not hold the event back until the next piece."""
        splitter = Splitter()
        self.assertEqual(splitter.feed(b"data: a\r\r"), [Event(b"", b"a")])
        self.assertEqual(splitter.feed(b"\ndata: b\r\n\r\n"), [Event(b"", b"b")])

    def test_unfinished_event_is_no_event(self):
        """What no empty line ends is not given out."""
        self.assertEqual(events_of(b"data: a\n"), [])
        self.assertEqual(events_of(b"event: ping\n\n", b"data:\n\n"), [Event(b"", b"")])

    def test_B24_a_line_without_end_is_refused(self):
        """One line, or one event's data, may not grow beyond a bound."""
        for piece in (b"x" * 65536, b"data: " + b"x" * 65530 + b"\n"):
            splitter = Splitter()
            with self.assertRaises(BrokenStream):
                for _ in range(LONGEST_EVENT // 65536 + 1):
                    splitter.feed(piece)

    def test_long_streams_of_short_events_pass(self):
        """The bound is on one event, not on the stream."""
        piece = b"data: " + b"x" * 65530 + b"\n\n"
        self.assertEqual(len(events_of(*[piece] * 40)), 40)


class LookTests(SynchronousTestCase):
    def test_P2_first_data_waits_for_a_whole_line(self):
        """Comments, names, blank lines and half a data line are nothing of an answer yet."""
        head = b""
        for piece in (b": ping\n\n", b"\n", b"event: x\n", b"xdata: no\n", b'data: {"a"', b":1}"):
            head += piece
            self.assertIsNone(first_data(head))
        self.assertEqual(first_data(head + b"\r"), b'{"a":1}')
        self.assertEqual(first_data(b"\xef\xbb\xbfdata:x\n"), b"x")

    def test_done_is_a_line_of_its_own(self):
        """[DONE] counts as the last line only, never inside a text."""
        for tail in (b"\ndata: [DONE]\n\n", b"\r\ndata:[DONE]\r\n\r\n", b"\n\ndata: [DONE]"):
            self.assertTrue(ends_with_done(tail), tail)
        for tail in (b'\ndata: {"x":"data: [DONE]', b"\ndata: [DONE]\n\ndata: x\n\n", b"[DONE]"):
            self.assertFalse(ends_with_done(tail), tail)

    def test_last_name_is_of_a_completed_line(self):
        """A name that is still being written does not count, nor one inside a text."""
        self.assertEqual(last_name(b"\nevent: a\ndata: event: c\n\nevent: b"), b"a")
        self.assertEqual(last_name(b"\r\nevent:b\r\n"), b"b")
        self.assertIsNone(last_name(b"\ndata: {}\n\n"))


class WriteTests(SynchronousTestCase):
    refusal = Refusal("upstream_disconnected", "box2 went away.")

    def test_comments_carry_no_event(self):
        """A comment is skipped by a parser, whatever text is put into it."""
        self.assertEqual(events_of(comment("one\n\ndata: two\r\n"), KEEP_ALIVE), [])

    def test_openai_error_event(self):
        """Under the OpenAI routes the error is a plain data event, also after a cut event."""
        stream = b'data: {"a"' + error_event(Api.CHAT, self.refusal, "r1")
        _, event = events_of(stream)
        self.assertEqual(json.loads(event.data)["error"]["code"], "upstream_disconnected")
        self.assertEqual(event.name, b"")

    def test_named_error_events(self):
        """Anthropic's and the responses API's error events are named, each in its shape."""
        (event,) = events_of(error_event(Api.MESSAGES, self.refusal, "r1"))
        self.assertEqual((event.name, json.loads(event.data)["type"]), (b"error", "error"))
        self.assertEqual(json.loads(event.data)["request_id"], "r1")
        (event,) = events_of(error_event(Api.RESPONSES, self.refusal, "r1"))
        said = json.loads(event.data)
        self.assertEqual((event.name, said["type"]), (b"error", "error"))
        self.assertEqual(said["message"], said["error"]["message"])
        self.assertEqual(events_of(DONE), [Event(b"", b"[DONE]")])
