"""Readers of paths and of the secrets in files and environment."""

import re
from os import stat_result
from pathlib import Path

from rolemesh.config.private import read_private
from rolemesh.config.problems import ConfigError
from rolemesh.config.reading import Place, settings
from rolemesh.config.scalars import text, variable

_MAX_SECRET = 4096


def path(place: Place, home: Path | None = None, name: str | None = None) -> Path:
    """A path, relative to the folder of the file that names it; `~/` is the user's home.

    `home` and `name` replace that folder and the text that stands in the file.
    """
    name = text(place) if name is None else name
    if not name.isprintable():
        raise place.wrong(f"{place.shown} is not a path: it holds a control character")
    if name.startswith("~/"):
        found = _users_home(place) / name[2:]
    else:
        found = (home or place.document.folder) / name
    place.document.named.append(found)
    return found


def folder(place: Place) -> Path:
    """A folder that exists, or may come later where the document is patient."""
    found = path(place)
    with place.patiently():
        if status_of(found, place) is None or not found.is_dir():
            raise place.wrong(f"there is no folder {found}")
    return found


def private_file(place: Place) -> Path:
    """`{file: …}`: a file of keys, which nobody but its owner may open; it may come later."""
    if isinstance(place.value, str):
        raise place.wrong("write {file: PATH}")
    named: Path = settings(place, {"file": path}, required=("file",))["file"]
    at = place.child("file")
    if status_of(named, at) is None:
        cure = f"'rolemesh keys add --file {named}' makes it, with --node NAME for nodes"
        at.warn(f"{named} does not exist yet: {cure}")
    else:
        private_content(named, at)
    return named


def secret(place: Place) -> str:
    """`{file: …}` or `{env: …}`: a secret that does not stand in the configuration itself."""
    if not isinstance(place.value, dict):
        raise place.wrong("a secret does not stand here: write {file: PATH} or {env: NAME}")
    source = settings(place, {"file": path, "env": variable})
    if len(source) != 1:
        raise place.wrong("write either {file: PATH} or {env: NAME}")
    if "env" in source:
        return _usable(_of_environment(source["env"], place.child("env")), place.child("env"))
    content = private_content(source["file"], place.child("file"))
    return _usable(content.decode("ascii", "replace"), place.child("file"))


def status_of(named: Path, place: Place) -> stat_result | None:
    """What the file system says of a path, None when nothing is there."""
    try:
        return named.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise place.wrong(f"{named} cannot be read: {error.strerror}") from None


def _users_home(place: Place) -> Path:
    home = place.document.environ.get("HOME")
    if not home:
        raise place.wrong("'~' has no meaning here, because $HOME is not set")
    return Path(home)


def private_content(named: Path, place: Place) -> bytes:
    """What is in a private file; its problems are told where the file is named."""
    try:
        return read_private(named, cure="put the secret there and chmod 600 it")
    except ConfigError as error:
        raise place.wrong(f"{named}: {error.problems[0].text}") from None


def _of_environment(name: str, place: Place) -> str:
    value = place.document.environ.get(name)
    if value is None:
        raise place.wrong(f"${name} is not set")
    return value


def _usable(value: str, place: Place) -> str:
    """A secret that can travel in a header; errors never show it."""
    usable = value.strip()
    if len(usable) > _MAX_SECRET or not re.fullmatch(r"[!-~]+", usable):
        raise place.wrong("the secret there must be one word of plain ASCII")
    return usable
