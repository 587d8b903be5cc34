"""What the gateway asks of a database, and what it keeps there."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import msgspec
from attrs import field, frozen
from msgspec.structs import replace

from rolemesh.core.model import BackendState
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


class Store(Protocol):
    """Keeps one registration a node. Whatever fails raises `StoreFailed`; after that, and before
    anything else, it is to be opened (again)."""

    async def open(self) -> Sequence[Kept]:
        """Be ready, and tell all that is kept."""

    async def write(self, changes: Mapping[str, Kept | None]) -> None:
        """Keep these, and forget the nodes with None: all or nothing, durable when it returns."""

    async def close(self) -> None:
        """Let go; nothing fails."""


def lasting(registration: Registration, base_urls: Sequence[str]) -> Registration:
    """What outlives a restart: not how busy or warm things were, nor what a name led to later.

    :param base_urls: the checked addresses of its backends, in their order.
    """
    if registration.plain:
        return replace(registration, base_url=base_urls[0])
    pairs = zip(registration.backends, base_urls, strict=True)
    return replace(
        registration,
        backends=tuple(_lasting_backend(report, url) for report, url in pairs),
        gpus=(),
    )


def _lasting_backend(report: BackendReport, base_url: str) -> BackendReport:
    """Its state is left out: after a restart a check tells it."""
    return replace(
        report,
        base_url=base_url,
        state=BackendState.READY,
        slots_busy=None,
        restarts=0,
        progress="",
        last_exit=None,
    )


def encode_registration(registration: Registration) -> str:
    """As it stands in a database."""
    return msgspec.json.encode(registration).decode()
