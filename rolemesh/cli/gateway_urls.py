"""At which URL other machines reach a gateway that listens on an endpoint."""

import re
import socket
from collections.abc import Iterable
from contextlib import closing

from rolemesh.config.listeners import Listener, Serves

_PART = re.compile(r"((?:\\.|[^:\\])*)(?::|\Z)")
_ELSEWHERE = ("192.0.2.1", 9)  # nobody's address; nothing is sent to it
_EVERY = ("", "0.0.0.0", "::")


def reached_at(listener: Listener) -> str | None:
    """The URL of a listener on TCP; where it listens on every address, that of the way out of this
    machine. None when there is no telling."""
    kind, *rest = (part.replace("\\", "") for part in _PART.findall(listener.endpoint))
    if kind not in ("tcp", "tcp4", "tcp6", "ssl"):
        return None
    named = dict(part.split("=", 1) for part in rest if "=" in part)
    port = named.get("port") or next((part for part in rest if part.isdigit()), "")
    interface = named.get("interface", "")
    host = own_address() if interface in _EVERY else interface
    if not port or port == "0" or host is None:
        return None
    secure = listener.tls is not None or kind == "ssl"
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def door_for_nodes(listeners: Iterable[Listener]) -> Listener | None:
    """The listener by which nodes come in: rather one that other machines reach."""
    doors = [each for each in listeners if each.offers(Serves.NODES)]
    return next((each for each in doors if not is_loopback(reached_at(each) or "")), None) or next(
        iter(doors), None
    )


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine itself."""
    return re.match(r"https?://(127\.|localhost|\[::1\])", url) is not None


def own_address() -> str | None:
    """The address by which this machine speaks to others; None without a network."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(_ELSEWHERE)  # UDP: a route is looked up
        except OSError:
            return None
        return str(probe.getsockname()[0])
