"""What the gateway asks of a database, and what it keeps there."""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec
from attrs import field, frozen
from msgspec.structs import replace

from rolemesh.core.report import BackendReport, Registration


class StoreFailed(Exception):
    """The database cannot be used now; the text says why, for the log only."""


class NewerSchema(Exception):
    """The database was written by a later RoleMesh, which must not be guessed at."""

    def __init__(self, where: str, found: int, known: int) -> None:
        super().__init__(
            f"{where} has schema version {found}, and this RoleMesh knows versions up to {known}:"
            " run the RoleMesh that wrote it, or a later one"
        )


def _told(registration: Registration) -> Registration:
    return replace(registration, generation=0)


@frozen
class Kept:
    """A registration as it was acknowledged: where it came from, by which token (its id), and when
    (Unix time). Two are equal when a restart would not tell them apart."""

    registration: Registration = field(eq=_told)
    source: str = field(default="", eq=False)
    token: str | None = None
    at: float = field(default=0.0, eq=False)

    @property
    def node(self) -> str:
        return self.registration.node


@frozen
class Usage:
    """What the requests of one day (UTC, `2026-11-22`), key and role came to.

    `key` is the id of the key, empty at a gateway without keys; `cached_tokens` are those of the
    prompt that needed no computing.
    """

    day: str
    key: str
    role: str
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


@frozen
class Meeting:
    """The gateways that are there now: the URLs by which nodes reach them, where they have told
    one, and how many they are. The one that `leads` does what only one has to do."""

    urls: tuple[str, ...] = ()
    count: int = 1
    leads: bool = True


Changes = Mapping[str, Kept | None]
Hear = Callable[[Changes], None]
Lose = Callable[[str], None]


class Store(Protocol):
    """Keeps one registration a node, and what was used. Whatever fails raises `StoreFailed`; after
    that it is to be opened (again), by who opened it before."""

    shared: bool
    """Whether other gateways write to it as well."""

    async def open(self, hear: Hear, lose: Lose, /) -> Sequence[Kept]:
        """Be ready, and tell all that is kept.

        From then on `hear` is told what other gateways change, perhaps with what was known already;
        `lose` is told why, when that cannot be told any longer.
        """

    async def write(self, changes: Changes) -> None:
        """Keep these, and forget the nodes with None: all or nothing, durable when it returns."""

    async def add_usage(self, rows: Sequence[Usage]) -> None:
        """Add these figures to what is kept: all or nothing, durable when it returns."""

    async def usage(self, since: str) -> Sequence[Usage]:
        """The sums for each day from that one on, key and role, in this order; with a shared store
        those of all gateways."""

    async def prune_usage(self, before: str) -> None:
        """Forget what was used before that day."""

    async def meet(self, gateway: str, url: str | None) -> Meeting:
        """Say that this run of a gateway is there, which nodes reach by the URL, and see who else
        is. Who says nothing for 30 seconds is gone."""

    async def leave(self, gateway: str) -> None:
        """Say that it goes."""

    async def close(self) -> None:
        """Let go; nothing fails."""


class Prepared(Store, Protocol):
    """A store that has to be looked at before the reactor runs, when a program can still refuse."""

    def prepare(self) -> None:
        """Bring what is stored up to date. Blocks.

        :raises NewerSchema: when a later RoleMesh wrote it.
        :raises StoreFailed: when it cannot be used now.
        """


def lasting(registration: Registration, base_urls: Sequence[str]) -> Registration:
    """What outlives a restart: not how busy or warm things were, nor what a name led to later.

    :param base_urls: the checked addresses of its backends, in their order.
    """
    if registration.plain:
        return replace(registration, base_url=base_urls[0])
    pairs = zip(registration.backends, base_urls, strict=True)
    return Registration(
        registration.node,
        instance=registration.instance,
        generation=registration.generation,
        labels=registration.labels,
        backends=tuple(_lasting_backend(report, url) for report, url in pairs),
        agent=registration.agent,
    )


def _lasting_backend(report: BackendReport, base_url: str) -> BackendReport:
    """Its state is left out: after a restart a check tells it."""
    return BackendReport(
        report.id,
        base_url,
        key=report.key,
        model=report.model,
        roles=report.roles,
        slots=report.slots,
        context=report.context,
        build=report.build,
        draining=report.draining,
    )


def encode_registration(registration: Registration) -> str:
    """As it stands in a database."""
    return msgspec.json.encode(registration).decode()
