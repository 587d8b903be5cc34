"""The one table of errors, and the refusal that every room raises."""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from attrs import field, frozen

from rolemesh.core.redaction import without_keys

LONGEST_HINT = 60.0  # seconds; some official clients ignore or obey for ever anything longer


@frozen
class Kind:
    """What a code means to a client: status, type, and whether sending again can help."""

    status: int
    type: str
    retry: bool


_BAD, _UNAVAILABLE = "invalid_request_error", "unavailable_error"

KINDS: Mapping[str, Kind] = {
    "invalid_json": Kind(400, _BAD, False),
    "invalid_encoding": Kind(400, _BAD, False),
    "missing_required_parameter": Kind(400, _BAD, False),
    "unsupported_parameter": Kind(400, _BAD, False),
    "context_length_exceeded": Kind(400, _BAD, False),
    "bad_request": Kind(400, _BAD, False),
    "invalid_api_key": Kind(401, "authentication_error", False),
    "scope_missing": Kind(403, "permission_error", False),
    "base_url_not_allowed": Kind(403, "permission_error", False),
    "role_not_allowed": Kind(403, "permission_error", False),
    "model_not_found": Kind(404, _BAD, False),
    "unknown_url": Kind(404, _BAD, False),
    "method_not_allowed": Kind(405, _BAD, False),
    "request_timeout": Kind(408, _BAD, False),
    "node_id_conflict": Kind(409, _BAD, False),
    "unknown_node": Kind(410, _BAD, False),
    "request_too_large": Kind(413, _BAD, False),
    "unsupported_media_type": Kind(415, _BAD, False),
    "poison_request": Kind(422, _BAD, False),
    "rate_limit_exceeded": Kind(429, "rate_limit_error", True),
    "quota_exceeded": Kind(429, "rate_limit_error", True),
    "role_saturated": Kind(429, "rate_limit_error", True),
    "headers_too_large": Kind(431, _BAD, False),
    "internal_error": Kind(500, "server_error", False),
    "upstream_error": Kind(502, "server_error", True),
    "upstream_disconnected": Kind(502, "server_error", True),
    "role_unavailable": Kind(503, _UNAVAILABLE, True),
    "model_loading": Kind(503, _UNAVAILABLE, True),
    "draining": Kind(503, _UNAVAILABLE, True),
    "state_unavailable": Kind(503, _UNAVAILABLE, True),
    "upstream_timeout": Kind(504, "server_error", False),
}

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


@frozen(eq=False)
class Refusal(Exception):
    """What a client is told instead of an answer: what, where, and what next.

    `retry_after` is in seconds; `retry` overrides the table's hint; `details` stand beside the
    message in the body, for example `n_ctx`.
    """

    code: str
    message: str
    param: str | None = None
    retry_after: float | None = None
    retry: bool | None = None
    details: Mapping[str, Any] = field(factory=dict)

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"

    @property
    def kind(self) -> Kind:
        return KINDS[self.code]

    @property
    def status(self) -> int:
        return self.kind.status

    @property
    def phrase(self) -> str:
        """What stands behind the status; Twisted knows none for 422, 429 and 431."""
        return HTTPStatus(self.status).phrase

    def should_retry(self) -> bool:
        return self.kind.retry if self.retry is None else self.retry

    def headers(self) -> dict[str, str]:
        """The response headers that tell a client whether and when to send again."""
        headers = {"x-should-retry": "true" if self.should_retry() else "false"}
        if self.retry_after is not None and self.should_retry():
            wait = min(max(self.retry_after, 0.0), LONGEST_HINT)
            headers["retry-after"] = str(math.ceil(wait))
            headers["retry-after-ms"] = str(math.ceil(wait * 1000))
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def openai_body(self) -> bytes:
        """The error in OpenAI's shape."""
        return msgspec.json.encode({"error": self._openai()})

    def anthropic_body(self, request_id: str) -> bytes:
        """The error in Anthropic's shape, for `/v1/messages`."""
        other = "api_error" if self.status >= 500 else "invalid_request_error"
        kind = _ANTHROPIC_TYPES.get(self.status, other)
        message = without_keys(self.message)
        error = {"type": kind, "message": message, "code": self.code, **self.details}
        return msgspec.json.encode({"type": "error", "error": error, "request_id": request_id})

    def _openai(self) -> dict[str, Any]:
        return {
            "message": without_keys(self.message),
            "type": self.kind.type,
            "param": self.param,
            "code": self.code,
            **self.details,
        }
