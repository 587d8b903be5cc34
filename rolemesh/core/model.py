"""The nouns of RoleMesh, frozen: what a role, a backend and a node are."""

from collections.abc import Mapping
from enum import Enum

from attrs import field, frozen


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
    """One entry of a role's `use`: a model that nodes serve, or the URL of a server that runs already."""

    model: str | None = None
    url: str | None = None
    key: str | None = field(default=None, repr=False)
    slots: int | None = None


@frozen
class Role:
    """The public name that a client puts in `model`, and what may answer it."""

    name: str
    use: tuple[Target, ...] = ()
    timeouts: Timeouts = Timeouts()

    def models(self) -> frozenset[str]:
        return frozenset(target.model for target in self.use if target.model)


class BackendState(str, Enum):
    """What a node says of one of its llama-servers."""

    STOPPED = "stopped"
    STARTING = "starting"
    LOADING = "loading"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"


@frozen
class BackendId:
    """A backend's name in the mesh: unique, stable over restarts, fit for headers and error texts."""

    node: str
    backend: str

    def __str__(self) -> str:
        return f"{self.node}/{self.backend}"


@frozen
class Backend:
    """One OpenAI-compatible server at one base URL.

    `context` is in tokens that one request may use, 0 when unknown; `slots` is how many sequences
    decode at a time, None when unknown.
    """

    id: BackendId
    base_url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    roles: frozenset[str] = frozenset()
    slots: int | None = None
    context: int = 0
    build: str = ""
    labels: Mapping[str, str] = field(factory=dict, hash=False)
