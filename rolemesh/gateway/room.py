"""How many connections this process has room for."""

import resource
from contextlib import suppress

from rolemesh.gateway.edge_site import Limits

LONGEST_BODY = 32 * 2**20
CONNECTIONS = 4096  # half of them of one address, which may be a balancer's
OWN_DESCRIPTORS = 24


def limits() -> Limits:
    """Connections as far as this process may have descriptors, of which each request takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    room = (soft - OWN_DESCRIPTORS) // 2 if soft > 0 else CONNECTIONS
    return Limits(
        body_bytes=LONGEST_BODY,
        connections=max(1, min(CONNECTIONS, room)),
        address_connections=max(1, min(CONNECTIONS // 2, room)),
    )
