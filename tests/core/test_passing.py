"""A backend's own errors: failed tries, or what a client may see of them."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.attempts import Outcome
from rolemesh.core.passing import (
    LONGEST_MESSAGE,
    Passed,
    among,
    judge,
    judge_event,
    judge_whole,
    scrubbed,
)

TOO_LONG = {
    "code": 400,
    "message": "request (4711 tokens) exceeds the available context size (4096 tokens)",
    "type": "exceed_context_size_error",
    "n_prompt_tokens": 4711,
    "n_ctx": 4096,
}


def error(**facts: Any) -> bytes:
    return json.dumps({"error": facts}).encode()


class JudgeTests(SynchronousTestCase):
    def passed(self, status: int, body: bytes) -> Passed:
        judged = judge(status, body)
        assert isinstance(judged, Passed), judged
        return judged

    def test_each_status(self) -> None:
        """B16, B17, B18, B20: 503 is loading or busy, 429 busy, 401 and 403 our own key's fault,
        5xx a fault; what no server answers here is garbled."""
        loading = error(code=503, message="Loading model", type="unavailable_error")
        for status, body, outcome in (
            (503, loading, Outcome.LOADING),
            (503, b"no slot available", Outcome.BUSY),
            (429, b"", Outcome.BUSY),
            (401, error(message="Invalid API Key"), Outcome.LOCKED_OUT),
            (403, b"", Outcome.LOCKED_OUT),
            (500, error(message="CUDA error: out of memory"), Outcome.FAULT),
            (502, b"", Outcome.FAULT),
            (599, b"", Outcome.FAULT),
            (302, b"", Outcome.GARBLED),
            (199, b"", Outcome.GARBLED),
            (600, b"", Outcome.GARBLED),
        ):
            self.assertIs(judge(status, body), outcome)

    def test_B19_the_request_s_own_fault(self) -> None:
        """400, 404, 422 and 501 go to the client, with status and message, in our shape."""
        for status in (400, 404, 422, 501):
            passed = self.passed(status, error(message="Bad grammar", type="some_error"))
            self.assertEqual((passed.status, passed.message), (status, "Bad grammar"))
            told = {"message": "Bad grammar", "type": "some_error"}
            told_openai = {"error": {**told, "param": None, "code": "bad_request"}}
            self.assertEqual(json.loads(passed.openai_body()), told_openai)
            told_claude = {**told, "code": "bad_request"}
            told_anthropic = {"type": "error", "error": told_claude, "request_id": "r1"}
            self.assertEqual(json.loads(passed.anthropic_body("r1")), told_anthropic)

    def test_B19_the_request_s_own_fault_under_a_500(self) -> None:
        """What llama-server cannot do for a request it says with a 500: it is the client's to know,
        as a 400, and perhaps another server can."""
        for message in (
            "image input is not supported - hint: you may need to provide the mmproj",
            "input (6005 tokens) is too large to process. increase the physical batch size",
            "Failed to parse tools: Unsupported tool type: {}",
            "'messages' is required",
        ):
            passed = self.passed(500, error(code=500, message=message, type="server_error"))
            self.assertEqual((passed.status, passed.message), (400, message))
            self.assertEqual((passed.type, passed.code), ("invalid_request_error", "bad_request"))
            self.assertTrue(passed.elsewhere)
        self.assertFalse(self.passed(400, error(message="'messages' is required")).elsewhere)
        quoted = error(message="CUDA error: image input is not supported")
        self.assertIs(judge(500, quoted), Outcome.FAULT)
        self.assertIs(judge(502, error(message="'messages' is required")), Outcome.FAULT)

    def test_B19_whatever_its_form(self) -> None:
        """An error without a text, of an odd type or in no JSON still is one, without its bytes."""
        for body in (
            b"",
            b"<html>",
            b"[1]",
            b'{"error": 7}',
            error(message=7),
            b"\xff",
            b"[" * 9999,
        ):
            passed = self.passed(404, body)
            self.assertEqual(passed.message, "The backend answered 404.")
            self.assertEqual(passed.type, "invalid_request_error")
        self.assertEqual(self.passed(400, b'{"error": "No."}').message, "No.")
        self.assertEqual(self.passed(400, error(type="<x>")).type, "invalid_request_error")
        self.assertEqual(self.passed(501, error(type=None)).type, "server_error")

    def test_context_overflow(self) -> None:
        """A prompt that is too long is context_length_exceeded, with both numbers, in both shapes;
        nothing else of a backend's error is passed on."""
        passed = self.passed(400, error(**TOO_LONG, prompt="secret"))
        told = json.loads(passed.openai_body())["error"]
        self.assertEqual(
            told,
            {
                "message": (
                    "prompt is too long: 4711 tokens > 4096 maximum. This model's maximum context"
                    " length is 4096 tokens; shorten the conversation, or ask a role with more"
                    " context."
                ),
                "type": "invalid_request_error",
                "param": None,
                "code": "context_length_exceeded",
                "n_ctx": 4096,
                "n_prompt_tokens": 4711,
            },
        )
        claude = json.loads(passed.anthropic_body("r1"))["error"]
        self.assertEqual((claude["n_ctx"], claude["n_prompt_tokens"]), (4096, 4711))

    def test_context_overflow_of_a_role(self) -> None:
        """The largest context that the prompt exceeds is told; other errors stay as they are."""
        passed = self.passed(400, error(**TOO_LONG))
        told = [among(passed, contexts) for contexts in ([2048, 4500, 4096], [4096], [], [65536])]
        self.assertEqual([each.details["n_ctx"] for each in told], [4500, 4096, 4096, 4096])
        self.assertIn("length is 4500 tokens", told[0].message)
        other = self.passed(400, error(message="no", n_ctx=1, n_prompt_tokens=9))
        self.assertEqual(among(other, [5]), other)

    def test_context_overflow_without_numbers(self) -> None:
        """What is no number is not passed as one."""
        kind = "exceed_context_size_error"
        passed = self.passed(400, error(type=kind, n_ctx="x", n_prompt_tokens=True))
        self.assertEqual((passed.code, passed.details), ("context_length_exceeded", {}))


class EventTests(SynchronousTestCase):
    def test_B27_an_error_as_the_first_event(self) -> None:
        """An error in a stream's first event is the error it would have been as an answer."""
        passed = judge_event(error(**TOO_LONG))
        assert isinstance(passed, Passed)
        self.assertEqual((passed.status, passed.code), (400, "context_length_exceeded"))
        self.assertIs(judge_event(error(code=503, message="Loading model")), Outcome.LOADING)
        self.assertIs(judge_event(error(code=500, message="x")), Outcome.FAULT)

    def test_B27_without_a_status_it_is_a_fault(self) -> None:
        """A code that is no HTTP error status counts as 500."""
        for code in (None, "invalid_prompt", 200, 1000, True, 4.5):
            self.assertIs(judge_event(error(code=code, message="x")), Outcome.FAULT)
        self.assertIs(judge_event(b'{"error":"broken"}'), Outcome.FAULT)

    def test_B27_an_error_instead_of_an_answer(self) -> None:
        """A 200 whose body begins with an error is that error; one that has an error somewhere, as
        a response of a failed run, is an answer."""
        for body in (b'{"error":"Returning 200 anyway"}', b' {\n "error" : {"message":"x"}}\n'):
            self.assertIs(judge_whole(body), Outcome.FAULT)
        self.assertIsInstance(judge_whole(error(**TOO_LONG)), Passed)
        failed_run = b'{"id":"r","error":{"message":"x"}}'
        for body in (b'{"error":null,"id":"r"}', failed_run, b'["error"]'):
            self.assertIsNone(judge_whole(body))

    def test_no_error(self) -> None:
        """Tokens, an empty error, text that speaks of errors and broken JSON are none."""
        chunk = b'{"choices":[{"delta":{"content":"the word \\"error\\""}}]}'
        for data in (b"[DONE]", b"", b'{"error":null}', b'{"error"', chunk, b'["error"]'):
            self.assertIsNone(judge_event(data))


class ScrubTests(SynchronousTestCase):
    def test_B19_paths_and_addresses(self) -> None:
        """No path, model file, URL or address of a backend reaches a client."""
        for private in (
            "/srv/models/secret.gguf",
            "/home/me/x",
            "../models/secret/x.bin",
            "C:\\Users\\me\\secret.gguf",
            "secret-Q4_K_M.gguf",
            "http://10.0.0.12:18100/health",
            "http://secret.lan:8081",
            "10.0.0.12:18100",
            "192.168.1.7",
        ):
            clean = scrubbed(f"failed to load '{private}' (code 7)")
            self.assertIn("…", clean)
            for part in ("secret", "10.0", "192.", "18100", "8081", "home", "Users"):
                self.assertNotIn(part, clean)
            self.assertTrue(clean.startswith("failed to load '"))
            self.assertTrue(clean.endswith("' (code 7)"))

    def test_plain_words_stay(self) -> None:
        """What is no path stays as it was."""
        for words in (
            "n_predict must be >= 0.5 and/or set, see 'max_tokens' (1.5/2)",
            "a\tb\nc",
            "é 1.2.3",
        ):
            self.assertEqual(scrubbed(words), words)

    def test_B19_control_characters(self) -> None:
        """Control characters, escape sequences and line ends become spaces."""
        self.assertEqual(scrubbed("a\x1b[31mb\rc\x00d\x7fe\x9bf"), "a [31mb c d e f")

    def test_B19_length(self) -> None:
        """A message is cut at 1 KiB, and a path is not saved by the cut."""
        self.assertEqual(len(scrubbed("x " * 9999)), 1024)
        self.assertNotIn("/srv", scrubbed("x" * (LONGEST_MESSAGE - 5) + " /srv/models/x.gguf"))

    @given(st.text(max_size=200))
    def test_scrubbing_twice_is_scrubbing_once(self, text: str) -> None:
        """What is clean stays, and what is left has no control characters but tab and line feed."""
        clean = scrubbed(text)
        self.assertEqual(scrubbed(clean), clean)
        control = {chr(n) for n in (*range(32), *range(127, 160))} - {"\t", "\n"}
        self.assertEqual(control & set(clean), set())
