"""What `GET /v1/usage` tells, and to whom."""

from typing import Any

from attrs import asdict

from rolemesh.config.listeners import Listener, Serves
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyKind, KeyRecord, Scope
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.usage import DAYS, Ledger


def usage_json(request: EdgeRequest, keys: Gatekeeper, ledger: Ledger) -> dict[str, Any]:
    """The sums of the last `days`, 7 unless the request names them: to a client those of its own
    key, to an operator all; to everybody where there are no keys.

    :raises Refusal: as `Gatekeeper.reader`; `bad_request`.
    """
    key = keys.reader(request, *_readers(request.channel.listener))
    own = None if key is None or _is_admin(key) else key.id
    days = _days(request)
    rows = [{**asdict(row), "name": keys.name_of(row.key)} for row in ledger.rows(days, own)]
    return {"object": "list", "today": ledger.today(), "days": days, "data": rows}


def _readers(listener: Listener) -> list[KeyKind]:
    """Whose keys are taken, by what is served where they are shown."""
    kinds = ((Serves.PUBLIC, KeyKind.CLIENT), (Serves.ADMIN, KeyKind.ADMIN))
    return [kind for serves, kind in kinds if listener.offers(serves)]


def _is_admin(key: KeyRecord) -> bool:
    return key.kind is KeyKind.ADMIN and Scope.ADMIN in key.scopes


def _days(request: EdgeRequest) -> int:
    text = request.args.get(b"days", [b"7"])[0]
    days = int(text) if text.isdigit() and len(text) < 4 else 0
    if not 1 <= days <= DAYS:
        raise Refusal("bad_request", f"days is a number from 1 to {DAYS}.", param="days")
    return days
