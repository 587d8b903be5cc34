"""What of a registration is taken: which base URLs, and which roles."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from attrs import define, evolve

from rolemesh.core.addresses import (
    Address,
    AddressPolicy,
    BaseUrl,
    judge,
    leads_back,
    parse_base_url,
    read_address,
)
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord
from rolemesh.core.model import Backend, BackendId
from rolemesh.core.report import BackendReport, RefusedBackend, Registration
from rolemesh.core.roles import RoleBook
from rolemesh.core.routing import lacks
from rolemesh.gateway.registrations import reports_of


@define(eq=False)
class Acceptance:
    """The rules of one gateway. `announce` lets nodes name roles, `resolve` gives the addresses
    behind a host name, `is_own` says of an address and a port whether this gateway itself listens
    there.
    """

    roles: RoleBook
    _policy: AddressPolicy
    _announce: bool
    _resolve: Callable[[str], Awaitable[Sequence[str]]]
    _is_own: Callable[[Address, int], bool]

    async def judge(
        self, registration: Registration, token: KeyRecord | None, source: Address | None
    ) -> tuple[Sequence[Backend], Sequence[RefusedBackend]]:
        """A registration's backends as the gateway takes them, and the roles in which it does not.

        :raises Refusal: when a base URL is not allowed.
        """
        policy = evolve(self._policy, source=source)
        backends: list[Backend] = []
        refused: list[RefusedBackend] = []
        for report in reports_of(registration):
            refusals = self._refusals(registration, report, token)
            base_url, address = await self._pinned(report.base_url, policy)
            barred = frozenset(refusals)
            backends.append(_backend(registration, report, barred, base_url, address))
            refused += (RefusedBackend(report.id, no.code, no.message) for no in refusals.values())
        return backends, refused

    def _refusals(
        self, registration: Registration, report: BackendReport, token: KeyRecord | None
    ) -> Mapping[str, Refusal]:
        """The roles in which a report is not taken, and why."""
        by_model = {
            name for name, role in self.roles.listed.items() if report.model in role.models()
        }
        announced = set(report.roles) - (set() if self._announce else by_model)
        refusals = {
            role: self._refusal(role, registration, report, token, role in by_model)
            for role in sorted(by_model | announced)
        }
        return {role: no for role, no in refusals.items() if no is not None}

    def _refusal(
        self,
        role: str,
        registration: Registration,
        report: BackendReport,
        token: KeyRecord | None,
        by_model: bool,
    ) -> Refusal | None:
        where = f"{registration.node}/{report.id} is not in '{role}'"
        if not self._announce and not by_model:
            return Refusal("role_not_allowed", f"{where}: this gateway takes no announced roles")
        if token is not None and not token.allows(role):
            return Refusal("role_not_allowed", f"{where}: its token does not allow that role")
        listed = self.roles.listed.get(role)
        labels = frozenset(registration.labels.items())
        lack = lacks(report.context, None, labels, listed.require) if listed else ""
        return Refusal("role_not_allowed", f"{where}: {lack}") if lack else None

    async def _pinned(self, base_url: str, policy: AddressPolicy) -> tuple[str, str | None]:
        """A base URL and the one checked address that it leads to, whatever its name comes to mean
        later; with https the name stays, as its certificate is verified by it."""
        url = parse_base_url(base_url)
        addresses = await self._addresses(url)
        for address in addresses:
            refusal = judge(url, address, policy)
            if refusal is None and self._is_own(address, url.port):
                refusal = leads_back(url)
            if refusal is not None:
                raise refusal
        pinned = str(min(addresses, key=_rank))
        if url.scheme == "https" and url.needs_resolution:
            return url.url, pinned
        return evolve(url, host=pinned).url, None

    async def _addresses(self, url: BaseUrl) -> Sequence[Address]:
        if url.address is not None:
            return [url.address]
        found = [read_address(each) for each in await self._resolve(url.host)]
        addresses = [each for each in found if each is not None]
        if not addresses:
            raise Refusal(
                "bad_request", f"{url.host} cannot be resolved: register an IP address.", "base_url"
            )
        return addresses


def _backend(
    registration: Registration,
    report: BackendReport,
    barred: frozenset[str],
    base_url: str,
    address: str | None,
) -> Backend:
    return Backend(
        BackendId(registration.node, report.id),
        base_url,
        key=report.key,
        model=report.model,
        roles=frozenset(report.roles) - barred,
        barred=barred,
        slots=report.slots,
        context=report.context,
        build=report.build,
        labels=registration.labels,
        address=address,
    )


def _rank(address: Address) -> tuple[int, int]:
    """The same of several addresses each time, in whatever order a resolver tells them."""
    return address.version, int(address)
