"""What nodes send, as far as it is a registration, and how often they may send one."""

from collections.abc import Sequence

import msgspec
from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from rolemesh.config.problems import quoted
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord
from rolemesh.core.limits import Pace
from rolemesh.core.report import BackendReport, Registration, read_registration
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.statics import STATIC_NODE

LONGEST_REPORT = 64 * 1024  # bytes
PER_MINUTE = 30  # registrations by one token
HEARTBEATS, SPAN = 50, 5.0  # by one token, in seconds: ten a second, and a burst of so many
PLAIN_BACKEND = "server"  # the id of the one that a person registers
_PLAIN_FIELDS = ("node", "base_url", "roles", "labels")


@define(eq=False)
class RegistrationPace:
    """Counts what each token sends; a gateway without tokens is on loopback alone."""

    _clock: IReactorTime
    _registrations: dict[str, Pace] = field(factory=dict)
    _heartbeats: dict[str, Pace] = field(factory=dict)

    def enter(self, token: KeyRecord | None) -> None:
        """Let one more registration begin.

        :raises Refusal: rate_limit_exceeded.
        """
        if token is not None:
            pace = self._registrations.setdefault(token.id, Pace())
            message = f"A token registers at most {PER_MINUTE} times a minute; heartbeats go on."
            self._take(pace, PER_MINUTE, message)

    def beat(self, token: KeyRecord | None) -> None:
        """Let one more heartbeat begin.

        :raises Refusal: rate_limit_exceeded.
        """
        if token is not None:
            pace = self._heartbeats.setdefault(token.id, Pace(SPAN))
            rate = HEARTBEATS / SPAN
            message = f"A token sends at most {rate:.0f} heartbeats a second; one in 5 s is enough."
            self._take(pace, HEARTBEATS, message)

    def _take(self, pace: Pace, most: int, message: str) -> None:
        now = self._clock.seconds()
        if not pace.left(most, now):
            raise Refusal("rate_limit_exceeded", message, retry_after=pace.promise(most, now))
        pace.take(most, now)


def read_request(request: EdgeRequest) -> Registration:
    """The registration, or heartbeat, in the body of a request.

    :raises Refusal: when it is none, or comes from a browser's page.
    """
    if request.getHeader("origin") is not None:
        raise Refusal("scope_missing", "Nodes are not registered from a browser's page.")
    body = request.body_within(LONGEST_REPORT, "A registration is")
    try:
        registration = read_registration(body)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"This is no registration: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("invalid_json", f"The body cannot be read as JSON: {error}.") from None
    _refuse_odd(registration)
    if registration.plain:
        _refuse_slips(body)
    return registration


def reports_of(registration: Registration) -> Sequence[BackendReport]:
    """The backends that a registration of either form names."""
    if registration.base_url is None:
        return registration.backends
    return [BackendReport(PLAIN_BACKEND, registration.base_url, roles=registration.roles)]


def _refuse_slips(body: bytes) -> None:
    """What a person typed has no field that is only nearly one; an agent may be newer than we."""
    for name in msgspec.json.decode(body, type=dict[str, msgspec.Raw]):
        if name not in _PLAIN_FIELDS:
            fields = ", ".join(_PLAIN_FIELDS)
            raise Refusal("bad_request", f"Unknown field {quoted(name)}; there are: {fields}.")


def _refuse_odd(registration: Registration) -> None:
    if registration.node == STATIC_NODE:
        raise Refusal("bad_request", f"'{STATIC_NODE}' names the configuration's own servers.")
    if registration.plain and (registration.backends or not registration.roles):
        raise Refusal(
            "bad_request",
            "A registration has either `base_url` and `roles`, or `instance` and `backends`.",
        )
    if not registration.plain and not registration.instance:
        raise Refusal("missing_required_parameter", "`base_url`, or `instance`, is missing.")
    ids = [report.id for report in registration.backends]
    if len(set(ids)) != len(ids):
        raise Refusal("bad_request", "Two backends of the registration have the same `id`.")
