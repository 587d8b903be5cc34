"""How `rolemesh keys show` tells everything about one key but its secret."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from rolemesh.cli.client import Failed, Gateway
from rolemesh.cli.gateway_arguments import ADMIN_KEY
from rolemesh.cli.key_table import limits_text, shown_time, state_of
from rolemesh.cli.table import table
from rolemesh.cli.usage import figures
from rolemesh.config.problems import printable
from rolemesh.core.keys import KeyKind, KeyRecord, read_id

DAYS = 7
PATIENCE = 5.0  # seconds for a gateway, without which the rest is shown
_COLUMNS = ("", "ROLE", "REQUESTS", "PROMPT", "CACHED", "COMPLETION")


@frozen
class KeyUsage:
    """A gateway's rows about one key, or why there are none."""

    today: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    unknown: str = ""


def usage_of(record: KeyRecord, gateway: Gateway) -> KeyUsage:
    """What a client key was used for of late, by what its gateway says."""
    asker = read_id(gateway.key)
    if asker and asker.startswith(f"{KeyKind.CLIENT}_") and asker != record.id:
        return KeyUsage(unknown="only an admin key may ask about another key")
    try:
        found = evolve(gateway, patience=PATIENCE).ask("GET", f"/v1/usage?days={DAYS}").good()
        rows = [row for row in found["data"] if row["key"] == record.id]
        return KeyUsage(found["today"], rows)
    except Failed as error:
        return KeyUsage(unknown=f"{error} (--url names the gateway, ${ADMIN_KEY} who asks)")


def key_story(record: KeyRecord, usage: KeyUsage | None, now: float) -> Iterator[str]:
    """The lines that tell it; without `usage` for a key that has none."""
    said = {
        "id": record.id,
        "name": record.name,
        "state": state_of(record, now),
        "node": record.node or "",
        "roles": "*" if record.roles == "*" else ", ".join(record.roles) or "none",
        "scopes": ", ".join(record.scopes) or "none",
        "limits": limits_text(record),
        "networks": ", ".join(map(str, record.networks)) or "anywhere",
        "note": record.note,
        "created": shown_time(record.created),
        "begins": shown_time(record.not_before) if record.not_before else "",
        "expires": shown_time(record.expires_at) if record.expires_at else "never",
        "rotation": _rotation(record, now),
        "usage": "unknown" if usage and usage.unknown else "",
    }
    yield from table([(name, printable(value)) for name, value in said.items() if value])
    if usage is not None and not usage.unknown:
        yield ""
        yield from table([_COLUMNS, *_used(usage)])


def key_json(record: KeyRecord, usage: KeyUsage | None, now: float) -> dict[str, Any]:
    """The same for programs; times are Unix seconds."""
    told: dict[str, Any] = {
        "id": record.id,
        "name": record.name,
        "state": state_of(record, now),
        "node": record.node,
        "roles": record.roles,
        "scopes": record.scopes,
        "rpm": record.rpm,
        "concurrency": record.concurrency,
        "tokens_per_day": record.tokens_per_day,
        "networks": list(map(str, record.networks)),
        "note": record.note,
        "created": record.created,
        "not_before": record.not_before,
        "expires_at": record.expires_at,
        "overlap_until": _overlap(record, now),
    }
    if usage is not None:
        told |= {"usage": None, "why": usage.unknown} if usage.unknown else {"usage": usage.rows}
    return told


def _rotation(record: KeyRecord, now: float) -> str:
    until = _overlap(record, now)
    return f"the text of before works until {shown_time(until)}" if until else ""


def _overlap(record: KeyRecord, now: float) -> float | None:
    """Until when the text works that a rotation has replaced."""
    return next((each.until for each in record.secrets if each.until and each.live(now)), None)


def _used(usage: KeyUsage) -> Iterator[tuple[str, ...]]:
    today = [row for row in usage.rows if row["day"] == usage.today]
    for span, rows in (("today", today), (f"{DAYS} days", usage.rows)):
        for role in sorted({row["role"] for row in rows}) or ["-"]:
            mine = [row for row in rows if row["role"] == role]
            yield (span, printable(role), *figures(mine))
