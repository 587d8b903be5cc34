"""How `rolemesh keys list` shows keys: who may do what until when, and never a secret or a hash."""

from collections.abc import Iterable
from datetime import UTC, datetime

from rolemesh.cli.table import table
from rolemesh.config.problems import printable
from rolemesh.core.keys import KeyRecord

_COLUMNS = (
    "ID", "NAME", "NODE", "STATE", "ROLES", "SCOPES", "LIMITS", "NETWORKS", "EXPIRES", "NOTE",
)  # fmt: skip


def key_table(records: Iterable[KeyRecord], now: float) -> list[str]:
    """The lines of a table, the first with the names of its columns."""
    return table([_COLUMNS, *(_row(record, now) for record in records)])


def shown_time(seconds: float) -> str:
    """Unix seconds as people read them."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M UTC}"


def _row(record: KeyRecord, now: float) -> tuple[str, ...]:
    return (
        record.id,
        printable(record.name),
        record.node or "-",
        state_of(record, now),
        "*" if record.roles == "*" else ",".join(record.roles) or "none",
        ",".join(record.scopes) or "none",
        limits_text(record),
        ",".join(map(str, record.networks)) or "anywhere",
        shown_time(record.expires_at) if record.expires_at else "never",
        printable(record.note),
    )


def limits_text(record: KeyRecord) -> str:
    """What a key may use, such as `60/min, 4 at once`."""
    said = (
        (record.rpm, "{}/min"),
        (record.concurrency, "{} at once"),
        (record.tokens_per_day, "{} tokens/day"),
    )
    return ", ".join(text.format(limit) for limit, text in said if limit is not None) or "none"


def state_of(record: KeyRecord, now: float) -> str:
    """In a word."""
    if record.disabled:
        return "revoked"
    if not record.live(now):
        return "expired" if record.expires_at and record.expires_at <= now else "not yet"
    return "rotating" if len([each for each in record.secrets if each.live(now)]) > 1 else "live"
