"""What a node tells on its own machine, to who may open the socket in its state folder."""

import msgspec
from msgspec import Struct

from rolemesh.core.model import BackendState
from rolemesh.core.report import GpuReport

SOCKET = "node.sock"  # in the state folder
LONGEST = 4 * 1024 * 1024  # bytes of what is told


class GatewayStanding(Struct, frozen=True):
    """How a node stands with one gateway, since how many seconds, and what was last said about
    that; `trouble` is what last went wrong, `next_in` seconds to the next report. A `learned` one
    is not in the node's file: another gateway told of it."""

    url: str
    standing: str
    said: str = ""
    since: float = 0.0
    trouble: str = ""
    next_in: float | None = None
    learned: bool = False


class ServerStatus(Struct, frozen=True):
    """One entry of `run`. `age` is seconds since its last start, `retry_in` seconds to the next;
    `argv` is what is run, without the key, which is never part of it."""

    id: str
    model: str
    state: BackendState
    pid: int | None = None
    age: float = 0.0
    slots: int = 0
    busy: int | None = None
    context: int = 0
    restarts: int = 0
    draining: str | None = None
    last_exit: str = ""
    lines: tuple[str, ...] = ()
    retry_in: float | None = None
    argv: tuple[str, ...] = ()


class NodeStatus(Struct, frozen=True):
    """A node as it is at this moment; `degraded` is what its state folder cannot do for it,
    `warnings` what its operator should see to soon."""

    node: str
    version: str
    gateways: tuple[GatewayStanding, ...]
    servers: tuple[ServerStatus, ...]
    gpus: tuple[GpuReport, ...] = ()
    degraded: str = ""
    warnings: tuple[str, ...] = ()


_status = msgspec.json.Decoder(NodeStatus)


def read_status(data: bytes) -> NodeStatus:
    """Read what a node told.

    :raises msgspec.MsgspecError: when it is not that.
    """
    return _status.decode(data)
