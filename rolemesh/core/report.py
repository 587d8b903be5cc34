"""The wire between the wings: what a node tells a gateway, and what it is told."""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

from rolemesh.core.model import BackendState
from rolemesh.core.nesting import brackets, depth

Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\Z")]
Roles = Annotated[tuple[Name, ...], Meta(max_length=64)]
Text = Annotated[str, Meta(max_length=256)]
Facts = Annotated[dict[Text, Text], Meta(max_length=64)]
Line = Annotated[str, Meta(max_length=1024)]
Word = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*\Z")]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]  # what a database takes as a number

MAX_BACKENDS = 16
MAX_DEPTH = 8

T = TypeVar("T")


class LastExit(Struct, frozen=True, omit_defaults=True):
    """How a llama-server last ended: a class of cause, what it said of it, its last lines, seconds
    to the next try. Nothing in it names a path, an address or a key."""

    reason: Text
    said: Text = ""
    lines: Annotated[tuple[Line, ...], Meta(max_length=64)] = ()
    retry_in: float | None = None


class BackendReport(Struct, frozen=True, omit_defaults=True):
    """One llama-server as its node sees it. `context` is tokens per request; `note` is what stands
    in its way, such as a model that does not fit into its GPU; `draining` why it is to get no new
    requests, None while it takes them; `waiting` requests have come for its slots and got none;
    its slots were looked at `slots_age` seconds ago, and for `still` seconds nothing has moved at
    it that its machine can see, None where that cannot be told."""

    id: Name
    base_url: Text
    key: Annotated[str, Meta(max_length=256)] | None = None
    model: Text | None = None
    roles: Roles = ()
    slots: Annotated[int, Meta(ge=1, le=4096)] | None = None
    context: Count = 0
    build: Text = ""
    state: BackendState = BackendState.READY
    slots_busy: Count | None = None
    waiting: Count = 0
    slots_age: Annotated[float, Meta(ge=0)] | None = None
    still: Annotated[float, Meta(ge=0)] | None = None
    restarts: Count = 0
    progress: Text = ""
    note: Text = ""
    draining: Text | None = None
    last_exit: LastExit | None = None

    def __repr__(self) -> str:
        return f"BackendReport({self.id!r}, {self.base_url!r}, {self.state!r})"


class GpuProcess(Struct, frozen=True, omit_defaults=True):
    """Who holds memory of a GPU, in bytes; `backend` where it is one of the node's own servers."""

    name: Text = ""
    pid: Count = 0
    memory: Count | None = None
    backend: Text = ""


class GpuReport(Struct, frozen=True, omit_defaults=True):
    """One GPU: bytes, watts, joules, degrees Celsius, ratios of 1.

    What the hardware does not tell is None, and `silent` has the reason by field; `reason` is why
    the whole GPU tells nothing. `energy` and the errors count since the driver was loaded, `xid`
    is the last one that the driver told of while we listened.
    """

    uuid: Text
    name: Text = ""
    index: Count | None = None
    pci: Text = ""
    driver: Text = ""
    compute_capability: Text = ""
    memory_total: Count | None = None
    memory_used: Count | None = None
    utilization: float | None = None
    power: float | None = None
    power_limit: float | None = None
    energy: float | None = None
    temperature: float | None = None
    throttled: Annotated[tuple[Text, ...], Meta(max_length=16)] | None = None
    ecc_errors: Count | None = None
    xid: Count | None = None
    processes: Annotated[tuple[GpuProcess, ...], Meta(max_length=8)] | None = None
    silent: Facts = {}
    lost: bool = False
    reason: Text = ""


class HostReport(Struct, frozen=True, omit_defaults=True):
    """The machine itself: processors and how busy they are as a ratio of 1, bytes of memory, the
    mean number of runnable tasks over 1, 5 and 15 minutes; None where it does not say."""

    cpus: Count | None = None
    cpu: float | None = None
    memory_total: Count | None = None
    memory_available: Count | None = None
    load: tuple[float, float, float] | None = None


class Agent(Struct, frozen=True, omit_defaults=True):
    """The program that reports."""

    version: Text = ""


class Registration(Struct, frozen=True, omit_defaults=True):
    """`POST /v1/nodes/register` and heartbeats: the plain form that a person types (`base_url`,
    `roles`), or the full form that the agent sends (`instance`, `generation`, `backends`)."""

    node: Name
    base_url: Text | None = None
    roles: Roles = ()
    instance: Word = ""
    generation: Count = 0
    labels: Facts = {}
    backends: Annotated[tuple[BackendReport, ...], Meta(max_length=MAX_BACKENDS)] = ()
    gpus: Annotated[tuple[GpuReport, ...], Meta(max_length=64)] = ()
    host: HostReport | None = None
    agent: Agent | None = None

    @property
    def plain(self) -> bool:
        return self.base_url is not None


class RefusedBackend(Struct, frozen=True):
    """Why a backend of a registration is not in a role."""

    backend: str
    code: str
    message: str


class Accepted(Struct, frozen=True):
    """The gateway's answer to a registration or a heartbeat; both times in seconds.

    `gateways` are the URLs of all gateways of the mesh; by `gateway`, a word of the one that
    answers, a node knows two URLs that lead to the same.
    """

    node: str
    lease_s: float
    heartbeat_s: float
    gateways: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    refused: tuple[RefusedBackend, ...] = ()
    gateway: str = ""


_registration = msgspec.json.Decoder(Registration)
_accepted = msgspec.json.Decoder(Accepted)


def read_registration(body: bytes) -> Registration:
    """Read what a node sent.

    :raises msgspec.ValidationError: when it is not a registration; the text names the field.
    :raises msgspec.DecodeError: when it is not JSON, or nested deeper than `MAX_DEPTH`.
    """
    if depth(brackets(body)) > MAX_DEPTH:
        raise msgspec.DecodeError(f"it is nested deeper than {MAX_DEPTH} levels")
    return _read(_registration, body)


def read_accepted(body: bytes) -> Accepted:
    """Read what a gateway answered; raises as `read_registration`."""
    return _read(_accepted, body)


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from None


def encode(message: Struct) -> bytes:
    """The JSON that goes over the wire."""
    return msgspec.json.encode(message)
