"""Every failure of a handler becomes the one error shape, and shows nothing but what is meant."""

from typing import Any

from klein import Klein
from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge_request import EdgeRequest

_log = Logger()


def answers_errors(app: Klein, paths: str) -> None:
    """Have `app` answer refusals, unknown paths and bugs by the table; `paths` names real ones."""

    @app.handle_errors(Exception)  # type: ignore[arg-type]  # Klein says IRequest, and means ours
    def failed(_: Any, request: Any, failure: Failure) -> bytes:
        error = failure.value
        if isinstance(error, Refusal):
            return request.as_refusal(error)
        if isinstance(error, HTTPException):
            return request.as_refusal(_unrouted(request, error, paths))
        if isinstance(error, CancelledError):  # there is nobody left to answer
            return b""
        where: dict[str, Any] = {"http.request.id": request.request_id}
        _log.failure("a handler failed", failure, **where)
        refusal = Refusal(
            "internal_error",
            f"The gateway failed at this request; its log tells more under {request.request_id}.",
        )
        return request.as_refusal(refusal)


def _unrouted(request: EdgeRequest, error: HTTPException, paths: str) -> Refusal:
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        request.setHeader("allow", allowed)
        method = request.method.decode("ascii", "replace")
        return Refusal("method_not_allowed", f"{method} is not for this path; it takes {allowed}.")
    return Refusal("unknown_url", f"There is nothing at this path. There are: {paths}.")
