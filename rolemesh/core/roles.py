"""Which role a client means: exact names, aliases, globs, `role@node`; and who is not there."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

from attrs import evolve, frozen

from rolemesh.core.errors import Refusal
from rolemesh.core.model import Role


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
        wanted = self._named(name) or self._pinned(name) or self._named(self.unknown_model or "")
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
        role = self.listed.get(name) or self._aliased(name)
        return Wanted(role) if role else None

    def _pinned(self, name: str) -> Wanted | None:
        base, at, node = name.rpartition("@")
        wanted = self._named(base) if at and node else None
        return Wanted(wanted.role, node) if wanted else None

    def _aliased(self, name: str) -> Role | None:
        exact = (role for role in self.listed.values() if name in role.aliases)
        globs = (
            role
            for role in self.listed.values()
            if any(fnmatchcase(name, alias) for alias in role.aliases)
        )
        return next(exact, None) or next(globs, None)

    def _not_found(self, name: str) -> Refusal:
        close = difflib.get_close_matches(name, self.listed, 1)
        shown = f"'{name}'" if len(name) <= 64 and name.isprintable() else "that name"
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return Refusal(
            "model_not_found",
            f"The role {shown} does not exist. {self._list()}{hint}",
            param="model",
        )

    def _list(self) -> str:
        known = ", ".join(sorted(self.listed))
        return f"Roles: {known}." if known else "There are no roles yet: no node has announced one."
