"""Which role a client means: exact names, aliases, globs, `role@node`; and who is not there."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from attrs import evolve, frozen

from rolemesh.core.errors import Refusal
from rolemesh.core.model import Role

LONGEST_NAME = 256  # of what a client may call a role; looked up and compared no further
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FIT_TO_SHOW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,63}")


@frozen
class Wanted:
    """A role, and the node that the client pinned it to, if any."""

    role: Role
    node: str | None = None


@frozen
class RoleBook:
    """Roles by name, and what to do with a name that is none of them."""

    listed: Mapping[str, Role]
    unknown_model: str | None = None
    default_role: str | None = None

    def with_announced(self, names: Iterable[str]) -> "RoleBook":
        """The same book with the roles in it that only nodes speak of."""
        announced = {name: Role(name) for name in names if name not in self.listed}
        return evolve(self, listed={**self.listed, **announced}) if announced else self

    def only(self, may: Callable[[str], bool]) -> "RoleBook":
        """The book as somebody sees it who may use some of its roles."""
        return evolve(self, listed={name: role for name, role in self.listed.items() if may(name)})

    def find(self, name: str | None) -> Wanted:
        """The role that a client's `model` means.

        :raises Refusal: missing_required_parameter, or model_not_found with a did-you-mean.
        """
        if name is None:
            return self._default()
        wanted = self._named(name) or self._named(self.unknown_model or "")
        if wanted is None:
            raise self._not_found(name)
        return wanted

    def _default(self) -> Wanted:
        wanted = self._named(self.default_role or "")
        if wanted is None:
            raise Refusal(
                "missing_required_parameter",
                f"'model' is missing: name a role. {self._list()}",
                param="model",
            )
        return wanted

    def _named(self, name: str) -> Wanted | None:
        """What exact names mean, with a node or without, before what globs would make of them."""
        if len(name) > LONGEST_NAME:
            return None
        base, _, node = name.rpartition("@")
        pinned = node if base and _NODE.fullmatch(node) else None
        for look in (self._exact, self._globbed):
            if role := look(name):
                return Wanted(role)
            if pinned and (role := look(base)):
                return Wanted(role, pinned)
        return None

    def _exact(self, name: str) -> Role | None:
        aliased = (role for role in self.listed.values() if name in role.aliases)
        return self.listed.get(name) or next(aliased, None)

    def _globbed(self, name: str) -> Role | None:
        roles = self.listed.values()
        return next((role for role in roles if _any_glob(role, name)), None)

    def _not_found(self, name: str) -> Refusal:
        short = name if len(name) <= LONGEST_NAME else ""
        close = difflib.get_close_matches(short, self.listed, 1)
        shown = f"'{name}'" if _FIT_TO_SHOW.fullmatch(name) else "of that name"
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return Refusal(
            "model_not_found",
            f"The role {shown} does not exist. {self._list()}{hint}",
            param="model",
        )

    def _list(self) -> str:
        known = ", ".join(sorted(self.listed))
        return f"Roles: {known}." if known else "There are no roles yet: no node has announced one."


def _any_glob(role: Role, name: str) -> bool:
    return any(fnmatchcase(name, alias) for alias in role.aliases)
