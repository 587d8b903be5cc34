"""The nouns of RoleMesh, frozen: what a role, a backend and a node are."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from attrs import evolve, field, frozen


@frozen
class Timeouts:
    """How long a gateway waits for a backend, in seconds.

    `first_byte` and `idle` count time without a byte; `total` bounds the whole answer.
    """

    connect: float = 2.0
    first_byte: float = 300.0
    idle: float = 60.0
    total: float = 3600.0


@frozen
class Target:
    """One entry of a role's `use`: a model that nodes serve, or the URL of a running server."""

    model: str | None = None
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    slots: int | None = None

    @property
    def server(self) -> "Target":
        """What roles must name alike to mean one server: at one URL may be several models, and
        what one key opens need not be what another opens."""
        return evolve(self, slots=None)


class Policy(StrEnum):
    """How one of several ready backends is chosen."""

    AFFINITY = "affinity"
    LEAST_LOADED = "least-loaded"
    ROUND_ROBIN = "round-robin"
    FIRST = "first"


@frozen
class Requirements:
    """What a backend must have to serve a role; `context` in tokens per request."""

    context: int = 0
    tools: bool = False
    labels: Mapping[str, str] = field(factory=dict, hash=False)


@frozen
class Params:
    """What is done to a request's own fields: filled in when absent, overruled, taken out."""

    default: Mapping[str, Any] = field(factory=dict, hash=False)
    set: Mapping[str, Any] = field(factory=dict, hash=False)
    drop: frozenset[str] = frozenset()


@frozen
class QueueLimits:
    """How many requests may wait for a role and how long, in seconds.

    `wait` None means: as long as the client says that it reads, else ten minutes. A streaming
    client that waits gets a comment every `keep_warm` seconds; None leaves it in peace.
    """

    max: int = 512
    wait: float | None = None
    keep_warm: float | None = 15.0


@frozen
class Role:
    """The public name that a client puts in `model`, and what may answer it."""

    name: str
    use: tuple[Target, ...] = ()
    policy: Policy = Policy.AFFINITY
    fallback: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    require: Requirements = Requirements()
    params: Params = Params()
    timeouts: Timeouts = Timeouts()
    queue: QueueLimits = QueueLimits()
    rescue: bool = False
    assemble: bool = True

    def models(self) -> frozenset[str]:
        """The models by which nodes serve it; what is at a URL is that server's own affair."""
        return frozenset(each.model for each in self.use if each.model and not each.url)


class BackendState(StrEnum):
    """What a node says of one of its llama-servers. Requests go to `ready` ones alone."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    SUSPECT = "suspect"
    REPLACING = "replacing"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    CRASH_LOOP = "crash_loop"
    UNKILLABLE = "unkillable"
    GPU_LOST = "gpu_lost"


@frozen
class BackendId:
    """A backend's name in the mesh: unique, stable over restarts, fit for headers and texts."""

    node: str
    backend: str

    def __str__(self) -> str:
        return f"{self.node}/{self.backend}"


@frozen
class Backend:
    """One OpenAI-compatible server at one base URL.

    `context` is in tokens that one request may use, 0 when unknown; `slots` is how many sequences
    decode at a time, None when unknown. `llama_server`: it is known to be llama.cpp's; `tools`:
    whether its chat template knows tools, None when unknown. `barred` are roles that it may not
    serve although it serves their model. `address` is the checked one that the name in `base_url`
    led to, None where the name itself is trusted.
    """

    id: BackendId
    base_url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    roles: frozenset[str] = frozenset()
    barred: frozenset[str] = frozenset()
    slots: int | None = None
    context: int = 0
    build: str = ""
    llama_server: bool = False
    tools: bool | None = None
    labels: Mapping[str, str] = field(factory=dict, hash=False)
    address: str | None = None
