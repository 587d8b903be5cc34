"""All that a store holds, as values, and what of it another one lacks."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from attrs import field, frozen

from rolemesh.core.keys import KeyRecord, revoke
from rolemesh.gateway.store.tables import Counts, Row

T = TypeVar("T")

_AT = 6  # where in a node's row the time of its registration stands


@frozen
class Contents:
    """Registrations by node, keys and tokens by id, and what was counted.

    Registrations are rows as they lie in the table: those that this RoleMesh cannot read as well.
    """

    nodes: Mapping[str, Row] = field(factory=dict)
    keys: Mapping[str, KeyRecord] = field(factory=dict)
    counts: Counts = field(factory=dict)

    @property
    def parts(self) -> Mapping[str, Mapping[Any, Any]]:
        """By what each is called."""
        return {
            "registrations": self.nodes,
            "keys and tokens": self.keys,
            "rows of usage": self.counts,
        }


@frozen
class Copying:
    """What a copy puts into its target, and what it finds there that the source does not say: `own`
    are those that the source has not, `otherwise` those that it has otherwise, in words."""

    wanted: Contents
    own: tuple[str, ...]
    otherwise: tuple[str, ...]


def copying(source: Contents, target: Contents) -> Copying:
    """What is there twice and differs: of registrations the later one holds, of keys the one that
    is there, revoked when either is, of figures the higher."""
    return Copying(
        Contents(
            _wanted(source.nodes, target.nodes, _later),
            _wanted(source.keys, target.keys, _safer),
            _wanted(source.counts, target.counts, _higher),
        ),
        tuple(_told(target, source, lambda there, key, _: key not in there)),
        tuple(_told(target, source, lambda there, key, value: there.get(key, value) != value)),
    )


def _wanted(
    source: Mapping[Any, T], target: Mapping[Any, T], choose: Callable[[T, T], T]
) -> dict[Any, T]:
    chosen = {
        key: choose(value, target[key]) if key in target else value for key, value in source.items()
    }
    return {key: value for key, value in chosen.items() if target.get(key) != value}


def _later(one: Row, there: Row) -> Row:
    return one if one[_AT] > there[_AT] else there


def _safer(one: KeyRecord, there: KeyRecord) -> KeyRecord:
    return revoke(there) if one.disabled else there


def _higher(one: tuple[int, ...], there: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(map(max, one, there))


def _told(
    target: Contents, source: Contents, which: Callable[[Mapping[Any, Any], Any, Any], bool]
) -> Iterator[str]:
    for (name, part), there in zip(target.parts.items(), source.parts.values(), strict=True):
        if found := [key for key, value in part.items() if which(there, key, value)]:
            yield f"{name}: {len(found)}"
