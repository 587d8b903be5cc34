"""`rolemesh pki`: a small private CA, and the certificates of a mesh. TLS in one minute."""

import argparse
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rolemesh.certificates import (
    BadPem,
    Pair,
    new_authority,
    new_client,
    new_server,
    pin_of,
    read_pair,
    renewed,
)
from rolemesh.config.private import read_private, write_private
from rolemesh.config.problems import ConfigError, printable

FOLDER = Path("pki")
AUTHORITY = "ca"
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Wrong(Exception):
    """It cannot be done, told in one line."""


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("pki", help="a private CA, and certificates for TLS")
    words = command.add_subparsers(title="what to do", metavar="WORD", required=True)
    init = words.add_parser("init", help="make a CA")
    init.add_argument("dir", metavar="DIR", nargs="?", type=Path, default=FOLDER, help="pki")
    init.add_argument("--name", default="RoleMesh CA", help="what the CA is called")
    _finish(init, _init)
    issue = words.add_parser("issue", help="make a certificate for a server, or for a node")
    issue.add_argument("name", metavar="NAME", nargs="?", help="the server's name or address")
    issue.add_argument(
        "--san", action="append", default=[], type=_host, help="another name or address of it"
    )
    issue.add_argument("--client", metavar="NODE", type=_node, help="for that node instead")
    _finish(issue, _issue, folder=True)
    renew = words.add_parser("renew", help="the same certificate, with its key, for another term")
    renew.add_argument("name", metavar="NAME", help="as its file is called")
    _finish(renew, _renew, folder=True)


def run(arguments: argparse.Namespace) -> int:
    """Do it, and say what to write where; 0 when it is done, else 1."""
    try:
        for line in arguments.word(arguments, datetime.now(UTC)):
            print(printable(line))
    except (Wrong, ConfigError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        named = f"{error.filename}: " if isinstance(error, OSError) else ""
        print(f"rolemesh pki: {printable(named + str(said))}", file=sys.stderr)
        return 1
    return 0


def _finish(command: argparse.ArgumentParser, word: Any, folder: bool = False) -> None:
    if folder:
        command.add_argument("--dir", type=Path, default=FOLDER, help="where the CA is (pki)")
    if word is not _renew:
        command.add_argument("--force", action="store_true", help="overwrite what is there")
    command.set_defaults(run=run, word=word)


def _init(arguments: argparse.Namespace, now: datetime) -> Iterator[str]:
    folder = arguments.dir
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pair = new_authority(arguments.name, now)
    _write(folder, AUTHORITY, pair, arguments.force)
    yield f"{_path(folder, AUTHORITY, 'key')} signs certificates: keep it here, and to yourself"
    yield f"{_path(folder, AUTHORITY, 'pem')} is for everybody who is to trust them"
    yield "next: rolemesh pki issue NAME, with the name or address of the gateway's machine"


def _issue(arguments: argparse.Namespace, now: datetime) -> Iterator[str]:
    folder, node = arguments.dir, arguments.client
    name = arguments.name or node
    if name is None or (node and arguments.san):
        raise Wrong("write issue NAME [--san NAME…] for a server, issue --client NODE for a node")
    if name == AUTHORITY:
        raise Wrong(f"{name!r} is the CA's own name: choose another")
    authority = _read(folder, AUTHORITY)
    if node:
        pair = new_client(authority, node, now)
    else:
        pair = new_server(authority, [_server(name), *arguments.san], now)
    file = _file(name)
    _write(folder, file, pair, arguments.force)
    yield _until(pair, file)
    yield from _for_node(folder, file) if node else _for_server(folder, file, pair, name)


def _renew(arguments: argparse.Namespace, now: datetime) -> Iterator[str]:
    folder, file = arguments.dir, _file(arguments.name)
    if file == AUTHORITY:
        raise Wrong("a CA is not renewed: all that trust it would have to be told of the new one")
    pair = renewed(_read(folder, AUTHORITY), _read(folder, file), now)
    write_private(_path(folder, file, "pem"), pair.certificate_pem())
    yield _until(pair, file)
    yield "with the key and the pin of before; programs that read this file use it at once"


def _for_server(folder: Path, file: str, pair: Pair, name: str) -> Iterator[str]:
    cert, key = _path(folder, file, "pem"), _path(folder, file, "key")
    ca = _path(folder, AUTHORITY, "pem")
    host = f"[{name}]" if ":" in name else name
    yield "in the gateway's models.yaml:"
    yield "  gateway:"
    yield "    listen:"
    yield "      - endpoint: tcp:8443"
    yield f"        tls: {{cert: {cert}, key: {key}}}"
    yield "in each node_agent.yaml, with a copy of the CA, or with the pin alone:"
    yield f"  gateway: https://{host}:8443"
    yield f"  tls: {{ca: {ca.name}}}"
    yield f'  tls: {{pin: "{pin_of(pair.certificate)}"}}'
    yield f"for commands: export ROLEMESH_CA={ca}, or --ca; for OpenAI clients SSL_CERT_FILE={ca}"


def _for_node(folder: Path, file: str) -> Iterator[str]:
    cert, key = _path(folder, file, "pem"), _path(folder, file, "key")
    yield f"copy {cert} and {key} to the node; in its node_agent.yaml, beside ca or pin:"
    yield f"  tls: {{cert: {cert.name}, key: {key.name}}}"
    yield "in the gateway's models.yaml, for the listener of nodes:"
    yield f"        tls: {{…, client_ca: {_path(folder, AUTHORITY, 'pem')}}}"


def _until(pair: Pair, file: str) -> str:
    end = f"{pair.certificate.not_valid_after_utc:%Y-%m-%d}"
    return f"a certificate until {end}; before that: rolemesh pki renew {file}"


def _read(folder: Path, file: str) -> Pair:
    cert, key = _path(folder, file, "pem"), _path(folder, file, "key")
    cure = "rolemesh pki init" if file == AUTHORITY else f"rolemesh pki issue {file}"
    if not cert.exists():
        raise Wrong(f"{cert} is not there: `{cure}` makes it, or name its folder with --dir")
    try:
        return read_pair(cert.read_bytes(), read_private(key, f"`{cure}` makes it"))
    except BadPem as error:
        raise Wrong(f"{cert} and {key}: the one or the other {error}") from None


def _write(folder: Path, file: str, pair: Pair, force: bool) -> None:
    cert, key = _path(folder, file, "pem"), _path(folder, file, "key")
    for path in (cert, key):
        if path.exists() and not force:
            raise Wrong(f"{path} is there already: choose another name, or overwrite with --force")
    write_private(key, pair.key_pem())
    write_private(cert, pair.certificate_pem())


def _path(folder: Path, file: str, kind: str) -> Path:
    return folder.absolute() / f"{file}.{kind}"


def _file(name: str) -> str:
    """A file's name for a server's: an address of IPv6 and a wildcard would be awkward ones."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _server(name: str) -> str:
    try:
        return _host(name)
    except argparse.ArgumentTypeError as error:
        raise Wrong(str(error)) from None


def _host(name: str) -> str:
    """A server's name or address, for argparse."""
    try:
        return str(ip_address(name))
    except ValueError:
        pass
    if not _NAME.fullmatch(name) or ".." in name:
        raise argparse.ArgumentTypeError(f"{name!r} is no host's name and no address")
    return name.lower()


def _node(name: str) -> str:
    if not _NODE.fullmatch(name):
        raise argparse.ArgumentTypeError(f"{name!r} is not a node's name")
    return name
