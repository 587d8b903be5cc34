"""Readers of where things are on the network: URLs, endpoints, addresses, networks, ports."""

import re
from ipaddress import ip_address, ip_network
from urllib.parse import SplitResult, urlsplit

from rolemesh.config.reading import Place
from rolemesh.config.scalars import text, whole

_HOST = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")
_NUMERIC_END = re.compile(r"(.*\.)?[0-9]+|.*:.*")
_HOST_AND_PORT = re.compile(r"(?:https?://)?(?P<host>\[.*\]|[\w.-]+):(?P<port>[0-9]+)/?")
_ENDPOINT = re.compile(r"[a-z][a-z0-9+_-]*:.+")
_WITH_PORT = re.compile(r"(tcp|tcp6|ssl):(?:port=)?(?P<port>[^:]*)(:.*)?")


def url(place: Place) -> str:
    """The base URL of a server, without a last `/` or `/v1`, which mean the same server."""
    address = text(place)
    if "@" in address:
        raise place.wrong("a URL here has no user and no password: use 'key' for a secret")
    if not re.fullmatch(r"[!-~]+", address) or "\\" in address:
        raise place.wrong(f"{place.shown} is not a URL: it may hold no spaces or such letters")
    if re.search(r"[?#]", address):
        raise place.wrong("a URL here has no '?' and no '#': write http://HOST:PORT")
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        raise place.wrong(f"{place.shown} is not a URL: write http://HOST:PORT") from None
    if parts.scheme not in ("http", "https") or not _is_host(parts.hostname or ""):
        raise place.wrong(f"{place.shown} is not a URL: write http://HOST:PORT")
    if port == 0:
        raise place.wrong("port 0 is no port: write the one that the server listens on")
    return _rebuilt(parts, port)


def _rebuilt(parts: SplitResult, port: int | None) -> str:
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{path}"


def listen(place: Place) -> str:
    """A Twisted endpoint string; a bare port number is that port on loopback."""
    if isinstance(place.value, int) or str(place.value).isdecimal():
        return f"tcp:{whole(0, 65535)(place)}:interface=127.0.0.1"
    endpoint = text(place)
    with_port = _WITH_PORT.fullmatch(endpoint)
    if with_port and not _is_port(with_port["port"]):
        raise place.wrong(f"{place.shown} has no port number: write tcp:8000:interface=127.0.0.1")
    slip = None if with_port else _HOST_AND_PORT.fullmatch(endpoint)
    if slip:
        host = slip["host"].strip("[]").replace(":", "\\:")
        raise place.wrong(f"{place.shown}: write tcp:{slip['port']}:interface={host}")
    if not _ENDPOINT.fullmatch(endpoint) or not endpoint.isprintable():
        example = "tcp:8000:interface=127.0.0.1"
        raise place.wrong(f"{place.shown} is not a Twisted endpoint: write {example}")
    return endpoint


def network(place: Place) -> str:
    """A network in CIDR notation."""
    try:
        return str(ip_network(text(place)))
    except ValueError:
        raise place.wrong(f"{place.shown} is not a network: write 10.0.0.0/8") from None


def address(place: Place) -> str:
    """The name or address under which other machines reach this one."""
    host = text(place)
    if not _is_host(host.lower()):
        raise place.wrong(f"{place.shown} is not an address: write a host's name or 10.0.0.12")
    if host in ("0.0.0.0", "::"):
        raise place.wrong(f"{place.shown} is no address to reach: name one of this machine's own")
    return host


def ports(place: Place) -> range:
    """Port numbers, of `18100-18199`, ends included, or of one number."""
    first, dash, last = str(place.value).partition("-")
    if not _is_port(first) or not _is_port(last if dash else first):
        raise place.expected("ports such as 18100-18199")
    found = range(int(first), int(last if dash else first) + 1)
    if not found or 0 in found:
        raise place.expected("ports in rising order from 1 to 65535")
    return found


def _is_host(host: str) -> bool:
    """Whether this is a host's name, or an IP address in its usual spelling."""
    if not _NUMERIC_END.fullmatch(host):
        return _HOST.fullmatch(host) is not None
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _is_port(number: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", number) is not None and int(number) <= 65535
