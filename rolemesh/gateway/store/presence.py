"""How gateways that share a PostgreSQL know of each other, and agree on one for what is done once.

Time is the database's: the gateways' clocks may differ. The one that leads holds a lock of its
connection, which the database takes from who dies.
"""

from typing import Any

from rolemesh.gateway.store.interface import Meeting

AWAY = 30  # seconds without a beat after which a gateway is gone
LEADING = 7253142  # the advisory lock of who leads

_BEAT = (
    "INSERT INTO gateways (id, url, beat) VALUES (%s, %s, now())"
    " ON CONFLICT (id) DO UPDATE SET url = excluded.url, beat = excluded.beat"
)
_FORGET = "DELETE FROM gateways WHERE beat < now() - interval '1 day'"
_LIVE = f"SELECT url FROM gateways WHERE beat > now() - interval '{AWAY} s' ORDER BY url, id"
_LEAD = f"""
    SELECT CASE WHEN EXISTS (
        SELECT FROM pg_locks
        WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = {LEADING} AND granted
    ) THEN true ELSE pg_try_advisory_lock({LEADING}) END
"""
_LEAVE = "DELETE FROM gateways WHERE id = %s"


def attend(cursor: Any, gateway: str, url: str | None) -> Meeting:
    """Say that this gateway is there, and see who else is."""
    cursor.execute(_BEAT, (gateway, url))
    cursor.execute(_FORGET)
    cursor.execute(_LIVE)
    live = [found for (found,) in cursor.fetchall()]
    cursor.execute(_LEAD)
    [leads] = cursor.fetchone()
    return Meeting(tuple(dict.fromkeys(filter(None, live))), len(live), leads)


def leave(cursor: Any, gateway: str) -> None:
    """Say that this gateway goes."""
    cursor.execute(_LEAVE, (gateway,))
