"""Which base URLs a node may register: the spelling first, then every address behind it."""

import re
import unicodedata
from collections.abc import Iterator
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

from attrs import frozen

from rolemesh.core.errors import Refusal

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST = 256  # characters of a base URL
SCHEMES = {"http": 80, "https": 443}
LOW_PORTS = frozenset(SCHEMES.values())
FIRST_FREE_PORT, LAST_PORT = 1024, 65535

FORBIDDEN: tuple[Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "fe80::/10",
        "ff00::/8",
        "fd00:ec2::254/128",
    )
)
_NAT64: tuple[Network, ...] = (ip_network("64:ff9b::/96"), ip_network("64:ff9b:1::/48"))
_COMPATIBLE: Network = ip_network("::/96")

_NOT_IN_A_BASE_URL = {"@": "user or password", "?": "query", "#": "fragment", "\\": "backslash"}
_SHAPE = re.compile(
    r"(?P<scheme>https?)://(?:\[(?P<six>[0-9a-f:.]+)\]|(?P<host>[^/:\[\]@?#\\]+))(?::(?P<port>[0-9]{1,5}))?"
    r"(?:/|/v1/?)?"
)
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@frozen
class BaseUrl:
    """A base URL in its one spelling: lower case, with port, no path; `address` None for a name."""

    scheme: str
    host: str
    port: int
    address: Address | None = None

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def needs_resolution(self) -> bool:
        """Whether the host is a name, whose every address is to be judged."""
        return self.address is None


def read_address(text: str | None) -> Address | None:
    """The address that a text spells, or None; an IPv4 one also where it came mapped into IPv6."""
    try:
        return _unmapped(ip_address(text or ""))
    except ValueError:
        return None


def read_network(text: str) -> Network:
    """The network that a text such as `10.0.0.0/8` names; an address alone is a network of one.

    :raises ValueError: when it is none; the text says why.
    """
    return ip_network(text)


@frozen
class AddressPolicy:
    """What a gateway allows a base URL to lead to.

    `allow_loopback` is for a gateway that itself listens on loopback only; `source` is the address
    that the registration came from, as `read_address` gives it.
    """

    allowed_networks: tuple[Network, ...] = ()
    allow_loopback: bool = False
    source: Address | None = None

    def forbids(self, address: Address) -> bool:
        """Whether an address, or one that it carries inside it, may never be a node's."""
        return any(self._forbids(each) for each in _carried(address))

    def allows(self, address: Address) -> bool:
        """Whether an address that is not forbidden is one where nodes may be."""
        plain = _unmapped(address)
        if plain.is_loopback:
            return self.allow_loopback
        return plain == self.source or any(plain in network for network in self.allowed_networks)

    def _forbids(self, address: Address) -> bool:
        if address.is_loopback:
            return not self.allow_loopback
        return any(address in network for network in FORBIDDEN)


def parse_base_url(text: str) -> BaseUrl:
    """Read a base URL, which has one allowed spelling but for upper case, a last `/` and `/v1`.

    :raises Refusal: `bad_request` when it is no base URL; `base_url_not_allowed` when its host is
        an address spelled in another way than its own, or no host name.
    """
    found = _SHAPE.fullmatch(text.lower()) if text.isascii() and len(text) <= LONGEST else None
    if found is None:
        raise _misshapen(text)
    scheme, port = found["scheme"], found["port"]
    if found["six"] or _looks_numeric(found["host"]):
        address = _literal(found["six"] or found["host"])
        host = str(address)
    else:
        address, host = None, _name(found["host"])
    return BaseUrl(scheme, host, _port(port or SCHEMES[scheme]), address)


def judge(url: BaseUrl, address: Address, policy: AddressPolicy) -> Refusal | None:
    """What is wrong with an address that a base URL leads to, or None.

    Of a name only the name is told back: what it resolves to inside our network is ours.
    """
    if not policy.allow_loopback and not _usual_port(url.port):
        return _not_allowed(
            f"port {url.port} may not be used: serve the model on port 80, 443 or one from"
            f" {FIRST_FREE_PORT} to {LAST_PORT}"
        )
    if policy.forbids(address) and not url.needs_resolution:
        return _not_allowed(
            f"{url.host} is loopback, link-local, multicast or reserved, where no node can be"
            " reached: register an address of the node on its network"
        )
    if policy.forbids(address) or not policy.allows(address):
        return _not_allowed(
            f"{url.host} is neither where this registration came from nor in a network that nodes"
            " may use: register the node's own address, or add its network to"
            " gateway.nodes.allowed_networks in the gateway's file"
        )
    return None


def leads_back(url: BaseUrl) -> Refusal:
    """The refusal of a base URL at which the gateway itself listens: it would ask itself."""
    return _not_allowed(
        f"{url.host} with port {url.port} is this gateway itself: register the address at which"
        " the model's server listens"
    )


def _misshapen(text: str) -> Refusal:
    wrong = [what for sign, what in _NOT_IN_A_BASE_URL.items() if sign in text]
    if len(text) > LONGEST:
        why = f"it is longer than {LONGEST} characters"
    elif not text.isascii():
        return _not_allowed("base_url must be plain ASCII: write a name's other letters as xn--…")
    elif wrong:
        why = f"it may have no {wrong[0]}"
    else:
        why = "it must be http://HOST:PORT or https://HOST:PORT, with no path but /v1"
    return Refusal("bad_request", f"base_url cannot be used: {why}", param="base_url")


def _not_allowed(message: str) -> Refusal:
    return Refusal("base_url_not_allowed", message, param="base_url")


def _port(text: str | int) -> int:
    port = int(text)
    if not 1 <= port <= LAST_PORT:
        message = f"base_url cannot be used: port {port} is not from 1 to {LAST_PORT}"
        raise Refusal("bad_request", message, param="base_url")
    return port


def _usual_port(port: int) -> bool:
    return port in LOW_PORTS or port >= FIRST_FREE_PORT


def _looks_numeric(host: str) -> bool:
    """Whether a resolver may take a host for an IPv4 address, whatever its spelling."""
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None


def _literal(text: str) -> Address:
    address = read_address(text)
    if address is None:
        raise _not_allowed(
            f"{text!r} is no plain IP address: write four decimal numbers, or IPv6 in brackets"
        )
    if str(address) != text:
        raise _not_allowed(f"{text} is another spelling of an IP address: write {address}")
    return address


def _name(text: str) -> str:
    if len(text) > 253 or not all(_plain_label(label) for label in text.split(".")):
        raise _not_allowed(
            f"{text!r} is no host name: letters, digits and hyphens, dots only between labels"
        )
    return text


def _plain_label(label: str) -> bool:
    return _LABEL.fullmatch(label) is not None and (
        not label.startswith("xn--") or _decodes_to_itself(label)
    )


def _decodes_to_itself(label: str) -> bool:
    """Whether an IDNA label hides nothing, such as full-width digits, that a resolver unfolds."""
    try:
        decoded = label.removeprefix("xn--").encode("ascii").decode("punycode")
    except UnicodeError:
        return False
    return not decoded.isascii() and unicodedata.normalize("NFKC", decoded) == decoded


def _unmapped(address: Address) -> Address:
    return (isinstance(address, IPv6Address) and address.ipv4_mapped) or address


def _carried(address: Address) -> Iterator[Address]:
    """An address and every IPv4 one that a translator or a tunnel would take out of it."""
    plain = _unmapped(address)
    yield plain
    if isinstance(plain, IPv6Address):
        if plain.sixtofour:
            yield plain.sixtofour
        yield from plain.teredo or ()
        if any(plain in network for network in _NAT64) or _compatible(plain):
            yield IPv4Address(int(plain) & 0xFFFFFFFF)


def _compatible(address: IPv6Address) -> bool:
    return address in _COMPATIBLE and not address.is_loopback
