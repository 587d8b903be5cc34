"""The servers that the configuration names by URL, as backends."""

from collections.abc import Iterable

from rolemesh.core.model import Backend, BackendId, Role, Target
from rolemesh.gateway.registry import STATIC_NODE


def static_backends(roles: Iterable[Role]) -> dict[str, Backend]:
    """One backend a URL, named after the first role that uses it; it may serve several roles."""
    found: dict[str, Backend] = {}
    for role in roles:
        urls = [target for target in role.use if target.url is not None]
        for number, target in enumerate(urls, 1):
            if target.url is not None and target.url not in found:
                name = role.name if len(urls) == 1 else f"{role.name}-{number}"
                found[target.url] = _backend(name, target.url, target)
    return found


def _backend(name: str, url: str, target: Target) -> Backend:
    return Backend(
        BackendId(STATIC_NODE, name), url, key=target.key, model=target.model, slots=target.slots
    )
