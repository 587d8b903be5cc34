"""A node's file that is there already, made to belong to a gateway without losing what it says."""

import re
from collections.abc import Iterator
from pathlib import Path

from rolemesh.cli.first_files import USUAL_GATEWAY, Mesh, mesh_lines
from rolemesh.config.node import NodeSettings

BEFORE = ".before-join"  # behind the name of a file that was changed
_GATEWAY = re.compile(r"^gateway:[ \t]*(?P<value>[^\s#{\[][^\s#]*)(?P<rest>.*)$", re.MULTILINE)


class Unlike(Exception):
    """A file that says something else; what it would have to say."""


def adapted(path: Path, text: str, settings: NodeSettings, mesh: Mesh) -> str:
    """The text of a node's file with what is missing in it to belong to a mesh.

    :raises Unlike: when it says otherwise, or is written so that only a person can change it.
    """
    differences = list(_differences(text, settings, mesh))
    if differences:
        raise Unlike(_story(path, "; ".join(differences), mesh))
    missing = [line for line in mesh_lines(mesh) if not _says(text, line.partition(":")[0])]
    moved = not set(settings.gateways) & set(mesh.gateways)
    if not missing and not moved:
        return text
    found = _GATEWAY.search(text)
    if found is None:
        raise Unlike(_story(path, "it has no line `gateway: URL` that could be changed", mesh))
    gateway = mesh.gateways[0] if moved else found["value"]
    lines = [f"gateway: {gateway}{found['rest']}", *missing]
    return text[: found.start()] + "\n".join(lines) + text[found.end() :]


def _differences(text: str, settings: NodeSettings, mesh: Mesh) -> Iterator[str]:
    elsewhere = not set(settings.gateways) & set(mesh.gateways)
    if elsewhere and set(settings.gateways) != {USUAL_GATEWAY}:
        yield f"it belongs to {' and '.join(settings.gateways)}"
    if _says(text, "name") and settings.name != mesh.name:
        yield f"it calls this node '{settings.name}'"
    if _says(text, "tls") and mesh.pin not in settings.tls.pins:
        yield "its `tls` trusts another key"


def _says(text: str, key: str) -> bool:
    return re.search(rf"^{key}:", text, re.MULTILINE) is not None


def _story(path: Path, why: str, mesh: Mesh) -> str:
    lines = "\n".join(f"  {line}" for line in mesh_lines(mesh))
    return (
        f"{path} stays as it is: {why}. To join, let it say the following, and run the same line"
        f" again; the invite is not used up.\n{lines}"
    )
