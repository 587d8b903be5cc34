"""Which gateways a node tells, and when it tries one again that is away."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from rolemesh.core.addresses import FORBIDDEN, BaseUrl, parse_base_url
from rolemesh.core.errors import Refusal

MOST = 8  # gateways of one node; of a file that names more, no others are heard
FORGOTTEN = 3600.0  # seconds in which others were heard, and nobody told of it
FIRST, LONGEST = 1.0, 5.0  # seconds between tries
LONG_AWAY, RARELY = 600.0, 12.0  # seconds
SHARE = 0.4  # of a pause is chance, so that fifty nodes do not come at one instant


def next_try(failures: int, away: float, jitter: float) -> float:
    """Seconds to the next try after so many that failed, the first one `away` seconds ago;
    `jitter` is from 0 to 1.

    A try is cheap, and a gateway that is back is of no use before its nodes are.
    """
    longest = LONGEST if away < LONG_AWAY else RARELY
    doubled = FIRST * 2.0 ** min(failures - 1, 8)
    return min(longest, doubled) * (1.0 - SHARE * (1.0 - jitter))


def spelled(url: str) -> str:
    """A gateway's URL in one spelling."""
    with suppress(Refusal):
        return parse_base_url(url).url
    return url.rstrip("/")


def acceptable(url: str, configured: Sequence[str]) -> bool:
    """Whether a gateway that others tell of may have what those of the node's file have.

    Our token and the keys of our servers go to it. So it is never reached more openly than all
    that the file names: no plain HTTP where one of these has TLS, no network where all of these
    are on this machine; and nobody sends us to this machine from elsewhere.
    """
    try:
        told = parse_base_url(url)
        own = [_parsed(each) for each in configured]
    except Refusal:
        return False
    if told.address is not None and any(told.address in network for network in FORBIDDEN):
        return False
    if _here(told) != all(map(_here, own)):
        return False
    return told.scheme == "https" or all(each.scheme == "http" for each in own)


def _parsed(url: str) -> BaseUrl:
    """Without the path that a gateway behind another server may have."""
    scheme, _, rest = url.partition("://")
    return parse_base_url(f"{scheme}://{rest.partition('/')[0]}")


def _here(url: BaseUrl) -> bool:
    return url.host == "localhost" or (url.address is not None and url.address.is_loopback)


Learned = Mapping[str, float | None]  # since when nobody told of it, None while somebody does


def hear(
    learned: Learned, teller: str, told: Iterable[str], configured: Sequence[str], now: float
) -> Learned:
    """What is learned after `teller` has told of these; all URLs in their one spelling.

    One that nobody tells of any more is forgotten after `FORGOTTEN` seconds; while all others are
    silent, nobody is.
    """
    named = [url for url in dict.fromkeys(map(spelled, told)) if acceptable(url, configured)]
    known = {url: _since(url, since, teller, named, now) for url, since in learned.items()}
    kept = {url: since for url, since in known.items() if since is None or now - since < FORGOTTEN}
    fresh = [url for url in named if url not in kept and url not in configured]
    room = max(0, MOST - len(configured) - len(kept))
    return {**kept, **dict.fromkeys(fresh[:room])}


def _since(
    url: str, since: float | None, teller: str, named: Sequence[str], now: float
) -> float | None:
    if url in named:
        return None
    if url == teller or since is not None:
        return since
    return now
