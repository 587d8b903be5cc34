"""What is told of the nodes that are there, and to whom."""

from collections.abc import Collection
from typing import Any

from rolemesh.core.keys import KeyRecord
from rolemesh.core.model import Backend, BackendId
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.entries import Entry
from rolemesh.gateway.fleet import Fleet, Node
from rolemesh.gateway.registry import Registry


def nodes_json(
    fleet: Fleet, registry: Registry, roles: RoleBook, key: KeyRecord | None, alone: bool
) -> list[dict[str, Any]]:
    """All nodes; to a key for some roles, only what serves these, and no other role's name.

    `alone` is whether no other gateway sends requests to them.
    """
    if key is None or key.roles == "*":
        return [node_json(registry, node, alone) for node in fleet]
    book = roles.with_announced(registry.announced()).only(key.allows)
    seen = {
        entry.backend.id for role in book.listed.values() for _, entry in registry.members(role)
    }
    nodes = [node for node in fleet if seen.intersection(node.backends)]
    return [_narrowed(node_json(registry, node, alone, seen), key) for node in nodes]


def _narrowed(told: dict[str, Any], key: KeyRecord) -> dict[str, Any]:
    for backend in told["backends"]:
        backend["roles"] = [role for role in backend["roles"] if key.allows(role)]
    return told


def node_json(
    registry: Registry, node: Node, alone: bool, only: Collection[BackendId] | None = None
) -> dict[str, Any]:
    """One node with its backends, or with `only` these of them: no address and no key."""
    shown = [id for id in node.backends if only is None or id in only]
    entries = [entry for id in shown if (entry := registry.get(id)) is not None]
    return {
        "node": node.name,
        "plain": node.plain,
        "labels": dict(node.labels),
        "gpus": node.gpus,
        "host": node.host,
        "agent": node.version or None,
        "backends": [_backend_json(entry, registry.state(entry), alone) for entry in entries],
    }


def own_json(registry: Registry, node: Node, alone: bool) -> dict[str, Any]:
    """The same for the node itself, with nothing that the gateway has read at the addresses that
    this named, but whether all is well there."""
    told = node_json(registry, node, alone)
    for backend in told["backends"]:
        entry = registry.get(BackendId(node.name, backend["id"]))
        backend.update(_facts_json(entry.told) if entry is not None else {})
    return told


def _facts_json(backend: Backend) -> dict[str, Any]:
    return {
        "id": backend.id.backend,
        "model": backend.model,
        "roles": sorted(backend.roles),
        "slots": backend.slots,
        "context": backend.context or None,
        "build": backend.build or None,
    }


def _backend_json(entry: Entry, state: str, alone: bool) -> dict[str, Any]:
    report = entry.report
    return {
        **_facts_json(entry.backend),
        "ready": entry.ready,
        "draining": entry.draining,
        "state": state,
        "in_flight": entry.in_flight,
        "elsewhere": entry.share.elsewhere,
        "overshoot": entry.share.overshoot,
        "orphaned_slots": entry.orphaned if alone else None,  # else they may be another's
        "mismatches": entry.mismatches,
        "restarts": report.restarts if report else 0,
        "note": report.note if report else "",
        "last_exit": report.last_exit if report else None,
    }
