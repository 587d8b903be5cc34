"""The node's file of a box that joins: written or made to fit, tried out, then put in place."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from rolemesh.cli.adapting import BEFORE, Unlike, adapted
from rolemesh.cli.check import check_machine
from rolemesh.cli.first_files import Mesh
from rolemesh.cli.program_options import Helps
from rolemesh.cli.survey import Looked, survey
from rolemesh.config.node import load_node
from rolemesh.config.problems import ConfigError
from rolemesh.config.reading import open_document

TOKEN = "node.token"


class Broken(Exception):
    """A configuration with problems, each on a line."""


@frozen
class Draft:
    """A node's file as it is to be, and where its token is; `old` is what stands there, None
    without one."""

    path: Path
    text: str
    token: Path
    old: str | None = None

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f".{self.path.name}.joining")

    @contextmanager
    def tried_out(self) -> Iterator[None]:
        """Write it beside its place and check it, as `rolemesh check` does; unless it is settled,
        it is gone afterwards.

        :raises Broken: when it cannot be used.
        """
        self._beside.write_text(self.text)
        self._beside.chmod(0o644)
        try:
            settings = load_node(self._beside, os.environ)
            check_machine(self._beside, settings, os.environ, Helps(os.environ))
            yield
        except ConfigError as error:
            raise Broken(str(error).replace(str(self._beside), str(self.path))) from None
        finally:
            self._beside.unlink(missing_ok=True)

    def settle(self) -> bool:
        """Put it in its place, keeping what stood there beside it; False when it is there."""
        if self.text == self.old:
            return False
        if self.old is not None:
            self.path.with_name(self.path.name + BEFORE).write_text(self.old)
        self._beside.replace(self.path)
        return True


def draft(path: Path, mesh: Mesh, looked: Looked, say: Callable[[str], None]) -> Draft:
    """What a node's file is to say so that it belongs to a mesh; without one, what this machine
    has.

    :raises Unlike: when the file that is there is somebody else's.
    :raises Broken: when it has problems.
    :raises Impossible: when something is missing here without which nothing runs.
    """
    if path.exists():
        return _adapted(path, mesh)
    say("Looking at this machine")
    found = survey(looked, say, alike=bool(mesh.roles))
    path.parent.mkdir(parents=True, exist_ok=True)
    return Draft(path, found.node_text(mesh), path.with_name(TOKEN))


def _adapted(path: Path, mesh: Mesh) -> Draft:
    try:
        settings = load_node(path, os.environ)
    except ConfigError as error:
        raise Broken(str(error)) from None
    old = path.read_text()
    return Draft(path, adapted(path, old, settings, mesh), _token_of(path), old)


def _token_of(config: Path) -> Path:
    """The file that the configuration names, or the one that it will name."""
    match open_document(config, os.environ).data:
        case {"token": {"file": str(name)}}:
            return config.parent / Path(name).expanduser()
        case {"token": _}:
            raise Unlike(
                f"{config} takes its token from the environment: write token: {{file: {TOKEN}}}"
                " there instead, and run the same line again"
            )
    return config.with_name(TOKEN)
