"""What this machine answers: a free port, our address towards a gateway, the kernel's kills."""

import socket
from collections.abc import Collection, Iterable
from contextlib import closing, suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"

_CGROUP = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def free_port(host: str, ports: Iterable[int], taken: Collection[int]) -> int | None:
    """The first port that nobody listens on and nobody here was promised, None without one."""
    return next((port for port in ports if port not in taken and _bindable(host, port)), None)


def _bindable(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as llama-server does
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def is_loopback(url: str) -> bool:
    """Whether a gateway's URL points at this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def base_url(host: str, port: int) -> str:
    """How a gateway reaches a server here."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def address_towards(address: str) -> str | None:
    """The local address from which packets to this IP address leave; None without a route."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect((address, 9))  # UDP: a route is looked up, nothing is sent
        except OSError:
            return None
        return str(probe.getsockname()[0])


def kernel_kills() -> int:
    """How many of our cgroup the kernel killed for want of memory; 0 where it does not say."""
    with suppress(OSError, ValueError):
        own = _OWN_CGROUP.read_text().splitlines()[-1].rpartition(":")[2]
        events = (_CGROUP / own.strip("/") / "memory.events").read_text()
        counts = dict(line.split() for line in events.splitlines())
        return int(counts.get("oom_kill", 0))
    return 0
