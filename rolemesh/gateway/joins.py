"""The Klein route by which a box joins: an invite against a token, once."""

from collections.abc import Awaitable, Callable

import msgspec
from attrs import define
from klein import Klein
from twisted.logger import Logger

from rolemesh.config.keybook import BookClosed, KeyBook, Records
from rolemesh.config.problems import ConfigError
from rolemesh.core.errors import Refusal
from rolemesh.core.invites import JoinAnswer, Joined, JoinRequest, exchange
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.failures import Failures, address_of

JOIN = "/v1/nodes/join"
LONGEST_JOIN = 4 * 1024  # bytes of a body
_AGAIN = 5  # seconds
_NOT_VALID = "this invite is unknown, was used or has expired: make another with `rolemesh invite`"


@define(eq=False)
class JoinApi:
    """What a box may ask that has nothing but an invite.

    `book` is where node tokens and invites are, None at a gateway that asks nodes for no tokens;
    `known` says of a text whether it may be one of its invites, without looking there;
    `aside` calls what waits for a disk or a database, and gives its outcome; `now` is the time of
    day.
    """

    _book: KeyBook | None
    _known: Callable[[str], bool]
    _aside: Callable[[Callable[[], Joined | None]], Awaitable[Joined | None]]
    _failures: Failures
    _now: Callable[[], float]

    log = Logger()
    app = Klein()
    answers_errors(app, JOIN)

    @app.route(JOIN, methods=["POST"])
    async def join(self, request: EdgeRequest) -> bytes:
        asked = _read(request)
        known = self._known(asked.invite)
        if not known:  # so that guesses keep no disk busy
            self._count_failure(request)
        joined = await self._exchanged(asked)
        if joined is None:
            if known:
                self._count_failure(request)
            raise Refusal("invalid_api_key", _NOT_VALID)
        token = joined.token
        self.log.info(
            "{node} joined with the token {token}, {note}",
            node=token.node,
            token=token.id,
            note=token.note,
            **{"rolemesh.node": token.node, "http.request.id": request.request_id},
        )
        return request.as_json(JoinAnswer(token.node or "", token.roles))

    async def _exchanged(self, asked: JoinRequest) -> Joined | None:
        if self._book is None:
            return None
        book = self._book
        try:
            return await self._aside(lambda: spend(book, asked, self._now()))
        except (BookClosed, ConfigError) as error:
            self.log.error("a box cannot join: {problem}", problem=str(error))
            message = (
                "The gateway cannot write its node tokens now; its own log says why. "
                "The invite is not used up: try again."
            )
            raise Refusal("state_unavailable", message, retry_after=_AGAIN) from None

    def _count_failure(self, request: EdgeRequest) -> None:
        if self._failures.too_many(address_of(request)):
            message = "too many invites that are not valid from here: wait a second"
            raise Refusal("rate_limit_exceeded", message, retry_after=1)


def spend(book: KeyBook, asked: JoinRequest, now: float) -> Joined | None:
    """Spend an invite, alone among all gateways that have the same book, and durable when it
    returns; None when it is not valid. Waits for the book.

    :raises BookClosed: when it cannot be written; the invite is then as it was.
    :raises ConfigError: when it makes no sense.
    """

    def change(records: Records) -> tuple[Records, Joined | None]:
        joined = exchange(records, asked.invite, asked.token, now)
        return (joined.records if joined else records), joined

    return book.change(change)


def _read(request: EdgeRequest) -> JoinRequest:
    if request.getHeader("origin") is not None:
        raise Refusal("scope_missing", "Boxes do not join from a browser's page.")
    body = request.body_within(LONGEST_JOIN, "A box that joins says")
    try:
        return msgspec.json.decode(body, type=JoinRequest)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"This joins nothing: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("invalid_json", "The body cannot be read as JSON.") from None
