"""Readers of what the gateway's file says of a role."""

import re
from collections.abc import Callable, Mapping
from functools import cache
from itertools import combinations, product
from typing import Any

from rolemesh.config.files import secret
from rolemesh.config.problems import Gather, did_you_mean, quoted
from rolemesh.config.reading import Place, Reader, built, entries, listed, mapped, read, settings
from rolemesh.config.scalars import (
    ROLE_RULE,
    boolean,
    duration,
    is_role_name,
    label,
    model_name,
    one_of,
    role_name,
    size,
    some_time,
    text,
    whole,
)
from rolemesh.config.urls import url
from rolemesh.core.model import Params, Policy, QueueLimits, Requirements, Role, Target, Timeouts

MOST_SLOTS = 4096
_HOST_WITHOUT_SCHEME = re.compile(r"[\w.-]+:[0-9]{2,5}(/.*)?|[0-9]+(\.[0-9]+){3}")
_ALIAS = re.compile(r"[!-Z^-~]{1,128}")
_GLOB = re.compile(r"[*?]")
_OWN_PARAMS = frozenset({"model", "stream"})


def roles(place: Place) -> dict[str, Role]:
    """All roles of a file; what each is good for, and that no two claim the same alias."""
    found: dict[str, Role] = {}
    gather = Gather()
    for name, child in entries(place):
        with gather:
            _check_role_name(name, child)
        with gather:
            found[name] = _role(name, child)
    for one, other in combinations(found.values(), 2):
        with gather:
            _check_aliases(one, other, place)
    gather.finish()
    return found


def existing_role(place: Place) -> str:
    """The name of a role that the same file lists."""
    name = role_name(place)
    known = place.document.data.get("roles")
    names = list(known) if isinstance(known, dict) else []
    if name not in names:
        raise place.wrong(f"there is no role {place.shown}{did_you_mean(name, names)}")
    return name


def _check_role_name(name: str, place: Place) -> None:
    if not is_role_name(name):
        raise place.wrong_key(f"{quoted(name)} cannot be a role's name: {ROLE_RULE}")


def _role(name: str, place: Place) -> Role:
    if isinstance(place.value, dict):
        return _full_role(name, place)
    if place.value is None:
        raise place.wrong("is empty: give it a URL, a model's name, a list of them or a mapping")
    return Role(name, use=read(place, _targets))


def _full_role(name: str, place: Place) -> Role:
    found = settings(place, ROLE_KEYS)
    if name in found.get("fallback", ()):
        raise place.child("fallback").wrong("a role cannot fall back to itself")
    if found.get("rescue") and any(target.model is None for target in found.get("use", ())):
        place.child("rescue").warn(
            "goes on only where the model is known to be the same: write {url: …, model: …} in use"
        )
    return Role(name, **{_FIELDS.get(key, key): value for key, value in found.items()})


def _targets(place: Place) -> tuple[Target, ...]:
    targets = listed(_target, least=1)(place)
    seen: set[tuple[str | None, str | None]] = set()
    for index, target in enumerate(targets):
        if (target.url, target.model) in seen:
            raise place.child(index).wrong(f"{place.child(index).shown} is in this list twice")
        seen.add((target.url, target.model))
    return targets


def _target(place: Place) -> Target:
    if isinstance(place.value, dict):
        return _full_target(place)
    if isinstance(place.value, str) and "://" in place.value:
        return Target(url=url(place))
    if isinstance(place.value, str) and _HOST_WITHOUT_SCHEME.fullmatch(place.value):
        raise place.wrong(f"{place.shown} looks like a server: write http:// before it")
    return Target(model=model_name(place))


def _full_target(place: Place) -> Target:
    found = settings(place, TARGET_KEYS)
    if "url" not in found and "model" not in found:
        raise place.wrong("needs a 'url' or a 'model'")
    for key in ("key", "slots"):
        if key in found and "url" not in found:
            raise place.child(key).wrong("belongs to a 'url'; a node says this of its own models")
    return Target(**found)


def _wait(place: Place) -> float | None:
    return None if place.value == "auto" else duration(place)


def _keep_warm(place: Place) -> float | None:
    return None if place.value == "off" else some_time(place)


def _rescue(place: Place) -> bool:
    if place.value not in ("continue", "off"):
        raise place.expected("continue or off")
    return bool(place.value == "continue")


def _preset(place: Place) -> dict[str, Any]:
    gather = Gather()
    for key, child in entries(place):
        with gather:
            _check_param(key, child.wrong_key)
    gather.finish()
    return dict(place.value or {})


def _dropped(place: Place) -> frozenset[str]:
    return frozenset(listed(_param)(place))


def _param(place: Place) -> str:
    name = text(place)
    _check_param(name, place.wrong)
    return name


def _check_param(name: str, error: Callable[[str], Exception]) -> None:
    if name in _OWN_PARAMS:
        raise error(f"'{name}' is RoleMesh's own and cannot be changed here")


def _alias(place: Place) -> str:
    """A glob of `*` and `?`, or a plain name that is not already a role's."""
    name = text(place)
    if not _ALIAS.fullmatch(name):
        raise place.wrong(f"{place.shown} is not an alias: a name or a glob of * and ?, no spaces")
    if name in place.document.data["roles"]:
        raise place.wrong(f"{place.shown} is a role's own name, which always wins")
    return name


def _check_aliases(one: Role, other: Role, place: Place) -> None:
    for mine, theirs in product(one.aliases, other.aliases):
        both = _claimed_by_both(mine, theirs)
        if both is not None:
            aliases = place.child(other.name).child("aliases")
            raise _alias_place(aliases, theirs).wrong(
                f"'{theirs}' overlaps '{mine}' of role '{one.name}': '{both or 'x'}' would be "
                "both; narrow one of them, or list its names in full, which win over globs"
            )


def _alias_place(aliases: Place, alias: str) -> Place:
    listed_at = isinstance(aliases.value, list)
    return aliases.child(aliases.value.index(alias)) if listed_at else aliases


def _claimed_by_both(one: str, other: str) -> str | None:
    """A name that two aliases claim; a plain name wins over a glob, so they share none."""
    if bool(_GLOB.search(one)) != bool(_GLOB.search(other)):
        return None
    return name_of_both(one, other)


def name_of_both(one: str, other: str) -> str | None:
    """A name that matches both of two globs of `*` and `?`, if there is one."""

    def after(glob: str, at: int, rest: str | None) -> str | None:
        return None if rest is None else _SHOWN.get(glob[at], glob[at]) + rest

    @cache
    def meet(i: int, j: int) -> str | None:
        if i == len(one) and j == len(other):
            return ""
        if one[i : i + 1] == "*":
            found = meet(i + 1, j)
            return after(other, j, meet(i, j + 1)) if found is None and j < len(other) else found
        if other[j : j + 1] == "*":
            found = meet(i, j + 1)
            return after(one, i, meet(i + 1, j)) if found is None and i < len(one) else found
        if i == len(one) or j == len(other):
            return None
        if one[i] == other[j] or "?" in (one[i], other[j]):
            literal, at = (one, i) if one[i] != "?" else (other, j)
            return after(literal, at, meet(i + 1, j + 1))
        return None

    return meet(0, 0)


_SHOWN = {"*": "", "?": "x"}  # what each may stand for in an example

_FIELDS = {"timeout": "timeouts"}

TARGET_KEYS: Mapping[str, Reader[Any]] = {
    "url": url,
    "model": model_name,
    "key": secret,
    "slots": whole(1, MOST_SLOTS),
}
ROLE_KEYS: Mapping[str, Reader[Any]] = {
    "use": _targets,
    "policy": one_of(Policy),
    "fallback": listed(existing_role),
    "aliases": listed(_alias),
    "require": built(Requirements, context=size, tools=boolean, labels=mapped(label)),
    "params": built(Params, default=_preset, set=_preset, drop=_dropped),
    "timeout": built(
        Timeouts, connect=some_time, first_byte=some_time, idle=some_time, total=some_time
    ),
    "queue": built(QueueLimits, max=whole(0, 1_000_000), wait=_wait, keep_warm=_keep_warm),
    "rescue": _rescue,
    "assemble": boolean,
}
