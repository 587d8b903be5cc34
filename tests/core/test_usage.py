"""The end of a stream tells whether it was whole and what it cost, and no more of it is kept."""

import json

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.openai import Api
from rolemesh.core.usage import KEPT, Ending, TailTap, Timings, Usage, usage_of_json

TIMINGS = {
    "cache_n": 24,
    "prompt_n": 1,
    "prompt_ms": 0.3,
    "prompt_per_second": 1.0,
    "predicted_n": 4,
    "predicted_ms": 0.9,
}
SPENT = Timings(24, 1, 0.3, 4, 0.9)
CHAT_USAGE = {
    "completion_tokens": 4,
    "prompt_tokens": 25,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 24},
}
RESPONSES_USAGE = {
    "input_tokens": 25,
    "output_tokens": 4,
    "input_tokens_details": {"cached_tokens": 24},
}


def event(value: object, name: str = "") -> bytes:
    data = f"data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()
    return f"event: {name}\n".encode() + data if name else data


def ending(api: Api, *pieces: bytes, choices: int = 1) -> Ending:
    tap = TailTap(api, choices)
    for piece in pieces:
        tap.feed(piece)
    return tap.ending()


def delta(text: str, reason: str | None = None) -> bytes:
    return event({"choices": [{"finish_reason": reason, "index": 0, "delta": {"content": text}}]})


class ChatEndTests(SynchronousTestCase):
    last = event({"choices": [], "usage": CHAT_USAGE, "timings": TIMINGS})

    def test_whole_stream(self):
        """The last chunks of a chat give completeness, tokens and llama.cpp's timings."""
        end = ending(Api.CHAT, delta("a"), delta("", "length"), self.last, b"data: [DONE]\n\n")
        self.assertEqual(end, Ending(True, True, Usage(25, 4, 24, SPENT)))

    def test_B6_cut_stream_is_not_complete(self):
        """Without [DONE] a stream is not whole, and without a finish reason not finished."""
        end = ending(Api.CHAT, delta("a"), delta("data: [DONE]"))
        self.assertEqual((end.complete, end.finished), (False, False))
        self.assertEqual(end.usage, Usage())

    def test_B8_finish_reason_without_done(self):
        """A finish reason for each choice asked for says that only [DONE] is missing."""
        self.assertTrue(ending(Api.CHAT, delta("", "stop")).finished)
        self.assertFalse(ending(Api.CHAT, delta("", "stop")).complete)
        self.assertFalse(ending(Api.CHAT, delta("", "stop"), choices=2).finished)
        self.assertFalse(ending(Api.CHAT, delta('"finish_reason":"stop"')).finished)

    def test_timings_stand_in_for_missing_usage(self):
        """A stream without include_usage is still counted, by its timings."""
        last = {"choices": [{"finish_reason": "stop", "index": 0}], "timings": TIMINGS}
        self.assertEqual(ending(Api.CHAT, event(last)).usage, Usage(25, 4, 24, SPENT))

    def test_text_is_never_taken_for_a_count(self):
        """Usage that a model writes into its text is text."""
        lie = delta('"usage":{"prompt_tokens":1000000}')
        self.assertEqual(ending(Api.CHAT, self.last, lie).usage.prompt, 25)
        self.assertEqual(ending(Api.CHAT, lie).usage, Usage())

    def test_null_usage_in_each_chunk_is_passed_over(self):
        """The last usage that is an object counts."""
        stream = event({"usage": CHAT_USAGE}) + event({"usage": None})
        self.assertEqual(ending(Api.CHAT, stream).usage.prompt, 25)

    def test_strange_counts_are_no_counts(self):
        """What cannot be read is unknown, and never an exception."""
        for usage in ({"prompt_tokens": "many"}, {"prompt_tokens_details": 3}):
            self.assertEqual(ending(Api.CHAT, event({"usage": usage})).usage, Usage())
        self.assertEqual(ending(Api.CHAT, b'data: {"usage":{"prompt_tok').usage, Usage())

    def test_any_split_of_the_stream(self):
        """The pieces in which a stream comes change nothing."""
        stream = delta("", "stop") + self.last + b"data: [DONE]\n\n"
        pieces = [stream[at : at + 1] for at in range(len(stream))]
        self.assertEqual(ending(Api.CHAT, *pieces), ending(Api.CHAT, stream))

    def test_memory_is_bounded(self):
        """However long the stream, no more than twice the tail is kept; its end is still read."""
        tap = TailTap(Api.CHAT)
        for _ in range(2000):
            tap.feed(delta("word " * 20))
            self.assertLessEqual(len(tap._tail), 2 * KEPT)
        tap.feed(self.last + b"data: [DONE]\n\n")
        self.assertEqual(tap.ending().usage, Usage(25, 4, 24, SPENT))
        self.assertTrue(tap.ending().complete)

    def test_completions_end_like_chat(self):
        """The completions API has its usage on the last choice."""
        choice = {"text": "", "index": 0, "finish_reason": "stop"}
        last = event({"choices": [choice], "usage": CHAT_USAGE, "timings": TIMINGS})
        end = ending(Api.COMPLETIONS, last, b"data: [DONE]\n\n")
        self.assertEqual(end, Ending(True, True, Usage(25, 4, 24, SPENT)))


class NamedEndTests(SynchronousTestCase):
    def completed(self, text: str, name: str = "response.completed") -> bytes:
        response = {"output": [{"text": text}], "usage": RESPONSES_USAGE}
        return event({"type": name, "response": response, "timings": TIMINGS}, name)

    def test_responses(self):
        """A response ends in completed, failed or incomplete, and tells its cost there."""
        end = ending(Api.RESPONSES, self.completed("hello"))
        self.assertEqual(end, Ending(True, True, Usage(25, 4, 24, SPENT)))
        for name in ("response.failed", "response.incomplete"):
            self.assertTrue(ending(Api.RESPONSES, self.completed("", name)).complete)
        self.assertFalse(ending(Api.RESPONSES, self.completed("", "response.created")).complete)

    def test_last_event_longer_than_the_tail(self):
        """The last event repeats the whole answer; its name is known however long it is."""
        last = self.completed("word " * 50_000)
        pieces = [last[at : at + 1400] for at in range(0, len(last), 1400)]
        end = ending(Api.RESPONSES, event({}, "response.created"), *pieces)
        self.assertEqual(end, Ending(True, True, Usage(25, 4, 24, SPENT)))
        self.assertFalse(ending(Api.RESPONSES, *pieces[:-1]).complete)

    def test_messages(self):
        """A message's prompt is counted at its start, its answer at its end, caches included."""
        counts = {"cache_read_input_tokens": 24, "input_tokens": 1, "output_tokens": 0}
        start = {"type": "message_start", "message": {"usage": counts}}
        stop = {"delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}}
        words = [event({"delta": {"text": "word"}}, "content_block_delta")] * 2000
        begin, end = event(start, "message_start"), event(stop, "message_delta")
        last = event({"type": "message_stop"}, "message_stop")
        for between in ([], words):
            whole = ending(Api.MESSAGES, begin, *between, end, last)
            self.assertEqual(whole, Ending(True, True, Usage(25, 4, 24)))
            self.assertFalse(ending(Api.MESSAGES, begin, *between).finished)
            cut = ending(Api.MESSAGES, begin, *between, end)
            self.assertEqual((cut.complete, cut.finished), (False, True))


class WholeAnswerTests(SynchronousTestCase):
    def test_each_api(self):
        """A non-streaming answer tells the same in each API's own words."""
        chat = {"choices": [], "usage": CHAT_USAGE, "timings": TIMINGS}
        self.assertEqual(
            usage_of_json(Api.CHAT, json.dumps(chat).encode()), Usage(25, 4, 24, SPENT)
        )
        responses = {"object": "response", "usage": RESPONSES_USAGE}
        self.assertEqual(
            usage_of_json(Api.RESPONSES, json.dumps(responses).encode()), Usage(25, 4, 24)
        )
        counts = {"cache_read_input_tokens": 24, "input_tokens": 1, "output_tokens": 4}
        messages = {"content": [{"input": {"usage": {"input_tokens": 9}}}], "usage": counts}
        self.assertEqual(
            usage_of_json(Api.MESSAGES, json.dumps(messages).encode()), Usage(25, 4, 24)
        )

    def test_other_bodies_cost_nothing(self):
        """What is no such answer has no known cost, and never raises."""
        for body in (b"[]", b"{NaN}", b'{"usage":null}', b'{"usage":[]}', b"\xff", b"[" * 10**5):
            self.assertEqual(usage_of_json(Api.CHAT, body), Usage(), body[:10])

    def test_P3_a_body_cut_short(self):
        """None, wherever it was cut."""
        choice = {"message": {"content": "a"}}
        body = json.dumps({"choices": [choice], "usage": CHAT_USAGE}).encode()
        for at in range(len(body)):
            self.assertIsNone(usage_of_json(Api.CHAT, body[:at]), body[:at])

    def test_relayed_answer(self):
        """A JSON answer that is relayed unread is counted from its tail."""
        body = json.dumps({"data": ["x" * 40000], "usage": CHAT_USAGE}).encode()
        self.assertEqual(ending(Api.EMBEDDINGS, body).usage, Usage(25, 4, 24))


class BillTests(SynchronousTestCase):
    """What counts against a quota."""

    last = event({"choices": [], "usage": CHAT_USAGE, "timings": TIMINGS})

    def test_told(self) -> None:
        """What a whole answer tells is what counts."""
        end = ending(Api.CHAT, delta("a"), delta("", "stop"), self.last, b"data: [DONE]\n\n")
        self.assertEqual(end.bill(7), Usage(25, 4, 24))

    def test_cut(self) -> None:
        """Of a stream that was left or broke, its events count, and the estimate of its prompt."""
        end = ending(Api.CHAT, *[delta("a")] * 12)
        self.assertEqual(end.bill(7), Usage(7, 12))

    def test_cut_after_a_first_count(self) -> None:
        """A count that comes first in a stream, and is 1, does not stand for all of it."""
        start = event({"message": {"usage": {"input_tokens": 9, "output_tokens": 1}}}, "m")
        end = ending(Api.MESSAGES, start, *[event({"delta": "a"}, "d")] * 12)
        self.assertEqual((end.bill(7).prompt, end.bill(7).completion), (9, 13))

    def test_long(self) -> None:
        """Events count also where they are no longer kept."""
        end = ending(Api.CHAT, *[delta("a" * 1000)] * 100)
        self.assertEqual(end.bill(7).completion, 100)

    def test_silent(self) -> None:
        """A whole stream of a server that tells no usage is counted by its events."""
        end = ending(Api.CHAT, delta("a"), delta("b", "stop"))
        self.assertEqual(end.bill(7), Usage(7, 2))
