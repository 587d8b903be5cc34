"""The servers that the configuration names by URL, as backends."""

from collections.abc import Container, Iterable

from attrs import evolve

from rolemesh.core.model import Backend, BackendId, Role, Target
from rolemesh.core.sharing import at_one_place, same_slots

STATIC_NODE = "static"  # stands for a node in the ids of these


def static_backends(roles: Iterable[Role]) -> dict[Target, Backend]:
    """One backend for each server, named after the first role that uses it.

    Roles that name the same URL, model and key share one and its slots; any of them may tell these,
    also of a server that has other names.
    """
    found: dict[Target, Backend] = {}
    for role in roles:
        servers = [target for target in role.use if target.url is not None]
        for number, target in enumerate(servers, 1):
            known = found.get(target.server)
            if known is None:
                name = role.name if len(servers) == 1 else f"{role.name}-{number}"
                taken = {backend.id for backend in found.values()}
                found[target.server] = _backend(_free(name, taken), target)
            elif known.slots is None:
                found[target.server] = evolve(known, slots=target.slots)
    return {server: _with_slots(backend, found.values()) for server, backend in found.items()}


def _with_slots(backend: Backend, all: Iterable[Backend]) -> Backend:
    if backend.slots is not None:
        return backend
    told = (
        other.slots
        for other in all
        if other.slots and at_one_place(other, backend) and same_slots(other, backend)
    )
    return evolve(backend, slots=next(told, None))


def _free(name: str, taken: Container[BackendId]) -> BackendId:
    """A role may be called as the first of another role's servers is."""
    id = BackendId(STATIC_NODE, name)
    return id if id not in taken else _free(f"{name}-1", taken)


def _backend(id: BackendId, target: Target) -> Backend:
    return Backend(id, target.url or "", key=target.key, model=target.model, slots=target.slots)
