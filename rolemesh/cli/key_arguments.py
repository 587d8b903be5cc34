"""What `rolemesh keys` takes as arguments: texts to values, or an error that shows an example."""

import argparse
import re
from typing import Any

from rolemesh.config.scalars import is_role_name
from rolemesh.core.addresses import Network, read_network
from rolemesh.core.keys import SCOPES, KeyKind, Scope
from rolemesh.core.limits import MOST_REQUESTS, MOST_TOKENS

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def span(text: str) -> float:
    """Seconds, of `90d` or `1d12h`."""
    if not re.fullmatch(r"([0-9]{1,9}[dhms])+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration, such as 90d or 12h")
    return sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(\w)", text))


def roles(text: str) -> str | tuple[str, ...]:
    """`*`, or the names in `a,b`."""
    names = tuple(text.split(","))
    if text != "*" and not all(map(is_role_name, names)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither * nor roles, such as coder,planner")
    return "*" if text == "*" else names


def scopes(text: str) -> tuple[Scope, ...]:
    """The scopes in `chat,models` that a client key may have."""
    known = SCOPES[KeyKind.CLIENT]
    wanted = text.split(",")
    if not set(wanted) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is not among {', '.join(known)}")
    return tuple(scope for scope in known if scope in wanted)


def network(text: str) -> Network:
    """The network that `10.0.0.0/8` names."""
    try:
        return read_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}: write a network, as 10.0.0.0/8") from None


def node(text: str) -> str:
    """The name of a node."""
    if not _NODE.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a node's name: letters, digits and ._-")
    return text


def line(text: str) -> str:
    """One line, which may be shown on a terminal."""
    if not text or not text.isprintable():
        raise argparse.ArgumentTypeError("must be one line of text")
    return text


def limit(text: str) -> int | None:
    """A limit, or None for `none`."""
    if text == "none":
        return None
    number = int(text) if re.fullmatch("[0-9]{1,13}", text) else 0
    if not 1 <= number <= MOST_TOKENS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a limit: a whole number from 1, or none")
    return number


def requests(text: str) -> int | None:
    """A limit of requests."""
    number = limit(text)
    if number is not None and number > MOST_REQUESTS:
        raise argparse.ArgumentTypeError(f"{text!r} is more than {MOST_REQUESTS}: say none")
    return number


def add_limits(parser: argparse.ArgumentParser) -> None:
    """What a client key may use, each argument None for no limit and absent where none was said."""
    for name, kind, means in _LIMITS:
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=kind,
            default=argparse.SUPPRESS,
            metavar="N",
            help=means,
        )


def limits_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The limits that were said, by their names in a record."""
    return {name: vars(arguments)[name] for name, *_ in _LIMITS if name in vars(arguments)}


_LIMITS = (
    ("rpm", requests, "requests a minute, or none"),
    ("concurrency", requests, "requests under way at once, or none"),
    ("tokens_per_day", limit, "tokens in a day of UTC, of prompts and answers, or none"),
)
