"""Where the entries of a node's file stand in it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from rolemesh.config.node import NodeSettings
from rolemesh.config.reading import Place, open_document
from rolemesh.config.runs import Run


def entries_of(
    path: Path, settings: NodeSettings, environ: Mapping[str, str]
) -> Iterator[tuple[Place, Run]]:
    """Each entry of `run`, as it is written and as it was read."""
    document = open_document(path, environ)
    entries = Place(document, (), document.data).optional("run")
    for index, run in enumerate(settings.run if entries else ()):
        assert entries
        yield item(entries, index), run


def item(place: Place, index: int) -> Place:
    """An item of a list, or the single value that stands for a list of one."""
    return place.child(index) if isinstance(place.value, list) else place
