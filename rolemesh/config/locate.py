"""Where configuration and state are found when the command line does not say."""

import os
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from rolemesh.config.problems import ConfigError

SYSTEM_FOLDER = Path("/etc/rolemesh")


@frozen
class Sought:
    """A configuration file: its name, and the environment variable that says where it is."""

    file: str
    variable: str


GATEWAY_FILE = Sought("models.yaml", "ROLE_MESH_CONFIG")
NODE_FILE = Sought("node_agent.yaml", "ROLE_MESH_NODE_CONFIG")


class NoConfiguration(ConfigError):
    """No file stands in any of the usual places; as text one line that lists them."""

    def __init__(self, sought: Sought, tried: tuple[Path, ...]) -> None:
        super().__init__(())
        self.sought, self.tried = sought, tried

    def __str__(self) -> str:
        places = ", ".join(map(str, self.tried))
        return (
            f"no {self.sought.file} found: --config and ${self.sought.variable} are not given,"
            f" and there is none at {places}"
        )


def find_config(
    sought: Sought, explicit: str | None, environ: Mapping[str, str], cwd: Path, home: Path
) -> Path:
    """The configuration file to read: the given one, the environment's, or the first usual one.

    :raises NoConfiguration: when none is given and none stands in the usual places.
    """
    given = explicit or environ.get(sought.variable)
    if given:
        return cwd / given
    tried = tuple(folder / sought.file for folder in _usual_folders(cwd, home))
    for candidate in tried:
        if os.path.exists(candidate):  # False, and no error, for a folder closed to us
            return candidate
    raise NoConfiguration(sought, tried)


def find_state(explicit: str | None, environ: Mapping[str, str], cwd: Path, home: Path) -> Path:
    """The folder of what must survive a restart, which need not exist yet.

    systemd may name several in `$STATE_DIRECTORY`; the first is ours.
    """
    given = explicit or environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return cwd / given if given else home / ".local" / "state" / "rolemesh"


def _usual_folders(cwd: Path, home: Path) -> tuple[Path, ...]:
    return (cwd / "configs", home / ".config" / "rolemesh", SYSTEM_FOLDER)
