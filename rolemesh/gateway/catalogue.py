"""The roles of this gateway as clients are shown them."""

from typing import Any

from attrs import define

from rolemesh.core.keys import KeyRecord
from rolemesh.core.model import Role
from rolemesh.core.roles import RoleBook
from rolemesh.gateway.membership import Standing
from rolemesh.gateway.registry import Registry


@define(eq=False)
class Catalogue:
    """What roles there are, for whom, and how each stands. `roles` are those of the configuration;
    `created` is the Unix time that models are dated with."""

    _registry: Registry
    roles: RoleBook
    _created: int

    def book(self, key: KeyRecord | None) -> RoleBook:
        """The roles as the holder of a key sees them; without keys, all of them."""
        book = self.roles.with_announced(self._registry.announced())
        return book if key is None else book.only(key.allows)

    def standings(self) -> dict[str, Standing]:
        """How each role stands."""
        roles = self.book(None).listed
        return {name: self._registry.standing(role) for name, role in roles.items()}

    def models(self, key: KeyRecord | None) -> list[dict[str, Any]]:
        """The roles of the configuration, and of those that nodes announce the ones in sight."""
        return [
            self.model(name, role)
            for name, role in self.book(key).listed.items()
            if name in self.roles.listed or self._registry.seen(role)
        ]

    def model(self, name: str, role: Role) -> dict[str, Any]:
        """A role as OpenAI describes a model, with what we know beyond that."""
        standing = self._registry.standing(role)
        about: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "rolemesh",
        }
        if standing.context:
            about |= {"context_length": standing.context, "max_model_len": standing.context}
            about["meta"] = {"n_ctx": standing.context}
        about["rolemesh"] = {
            "kind": "role",
            "ready": standing.ready,
            "total": standing.total,
            "aliases": role.aliases,
        }
        return about
