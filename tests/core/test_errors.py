"""The table of errors as the design has it, and what a refusal looks like on the wire."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import KINDS, LONGEST_HINT, Refusal

DESIGN = """
400 | invalid_request_error | invalid_json invalid_encoding missing_required_parameter | no
400 | invalid_request_error | unsupported_parameter context_length_exceeded bad_request | no
401 | authentication_error  | invalid_api_key | no
403 | permission_error      | scope_missing base_url_not_allowed role_not_allowed | no
404 | invalid_request_error | model_not_found unknown_url | no
405 | invalid_request_error | method_not_allowed | no
413 | invalid_request_error | request_too_large | no
415 | invalid_request_error | unsupported_media_type | no
431 | invalid_request_error | headers_too_large | no
408 | invalid_request_error | request_timeout | no
409 | invalid_request_error | node_id_conflict | no
410 | invalid_request_error | unknown_node | no
422 | invalid_request_error | poison_request | no
429 | rate_limit_error      | rate_limit_exceeded quota_exceeded role_saturated | yes
500 | server_error          | internal_error | no
502 | server_error          | upstream_error upstream_disconnected | yes
503 | unavailable_error     | role_unavailable model_loading draining state_unavailable | yes
504 | server_error          | upstream_timeout | no
"""

ANTHROPIC = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    409: "invalid_request_error",
    410: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    500: "api_error",
    502: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def design() -> dict[str, tuple[int, str, bool]]:
    rows = [[cell.strip() for cell in row.split("|")] for row in DESIGN.strip().splitlines()]
    return {
        code: (int(status), kind, retry == "yes")
        for status, kind, codes, retry in rows
        for code in codes.split()
    }


class TableTests(SynchronousTestCase):
    def test_it_is_the_design_s(self) -> None:
        """Codes, statuses, types and retry hints are those of the design, and there is no other."""
        table = {code: (kind.status, kind.type, kind.retry) for code, kind in KINDS.items()}
        self.assertEqual(table, design())


class HeaderTests(SynchronousTestCase):
    def test_whether_to_send_again(self) -> None:
        """The table's hint is told unless the refusal knows better."""
        for code, kind in KINDS.items():
            hint = "true" if kind.retry else "false"
            self.assertEqual(Refusal(code, "x").headers()["x-should-retry"], hint)
            self.assertEqual(Refusal(code, "x", retry=True).headers()["x-should-retry"], "true")

    def test_when_to_send_again(self) -> None:
        """Seconds are rounded up, milliseconds beside them, and neither is above 60 s."""
        for after, seconds, milliseconds in (
            (2.0, "2", "2000"),
            (0.25, "1", "250"),
            (-3.0, "0", "0"),
            (61.0, "60", "60000"),
            (float("inf"), "60", "60000"),
        ):
            headers = Refusal("role_unavailable", "x", retry_after=after).headers()
            told = (headers["retry-after"], headers["retry-after-ms"])
            self.assertEqual(told, (seconds, milliseconds))

    @given(st.sampled_from(sorted(KINDS)), st.floats(allow_nan=False), st.none() | st.booleans())
    def test_hints_are_short(self, code: str, after: float, retry: bool | None) -> None:
        """No hint is longer than a minute, and none is given where it cannot help."""
        refusal = Refusal(code, "x", retry_after=after, retry=retry)
        headers = refusal.headers()
        self.assertEqual("retry-after" in headers, refusal.should_retry())
        self.assertTrue(0 <= int(headers.get("retry-after", 0)) <= LONGEST_HINT == 60)
        self.assertTrue(0 <= int(headers.get("retry-after-ms", 0)) <= 60_000)

    def test_who_are_you(self) -> None:
        """A 401, and only a 401, asks for a Bearer key."""
        asked = {code for code in KINDS if "www-authenticate" in Refusal(code, "x").headers()}
        self.assertEqual(asked, {"invalid_api_key"})
        self.assertEqual(Refusal("invalid_api_key", "x").headers()["www-authenticate"], "Bearer")


class BodyTests(SynchronousTestCase):
    def setUp(self) -> None:
        details: dict[str, Any] = {"n_ctx": 4096, "n_prompt_tokens": 5000}
        self.refusal = Refusal("context_length_exceeded", "Too long.", "messages", details=details)

    def test_openai_shape(self) -> None:
        """`message`, `type`, `param` and `code` are always there, details beside them."""
        expected = {
            "message": "Too long.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
            "n_ctx": 4096,
            "n_prompt_tokens": 5000,
        }
        self.assertEqual(json.loads(self.refusal.openai_body()), {"error": expected})
        plain = json.loads(Refusal("unknown_url", "No.").openai_body())["error"]
        self.assertEqual(set(plain), {"message", "type", "param", "code"})
        self.assertIsNone(plain["param"])

    def test_anthropic_shape(self) -> None:
        """Anthropic's clients find their own type, and the request's id in the body."""
        told = json.loads(self.refusal.anthropic_body("r1"))
        self.assertEqual((told["type"], told["request_id"]), ("error", "r1"))
        self.assertEqual(told["error"]["type"], "invalid_request_error")
        self.assertEqual((told["error"]["message"], told["error"]["n_ctx"]), ("Too long.", 4096))

    def test_anthropic_types(self) -> None:
        """Each status has the type that Anthropic's documentation gives it."""
        for code, kind in KINDS.items():
            told = json.loads(Refusal(code, "x").anthropic_body("r"))["error"]["type"]
            self.assertEqual(told, ANTHROPIC[kind.status], code)

    def test_in_a_log(self) -> None:
        """As text it is code and message."""
        self.assertEqual(str(Refusal("draining", "Going.")), "draining: Going.")
