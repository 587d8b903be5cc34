"""A box's side of joining: its token, and what it asks the gateway."""

import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from attrs import evolve, field, frozen

from rolemesh.cli.client import Answer, Failed, Gateway, reason
from rolemesh.cli.key_table import shown_time
from rolemesh.config.private import read_private, write_private
from rolemesh.config.problems import ConfigError
from rolemesh.config.tls import Trust
from rolemesh.core.invites import Invite, token_hash
from rolemesh.core.keys import ENTROPY, KeyKind, mint

JOIN = "/v1/nodes/join"
PATIENCE = 10.0  # seconds for one question
_KNOWN_WITHIN = 10.0  # seconds; gateways look at their token file twice a second
_LOOK = 0.2


class NotTaken(Exception):
    """The gateway does not take the invite; says why and what to do."""


@frozen
class Desk:
    """The gateway where a box joins, at one of its URLs."""

    url: str
    invite: Invite
    _gateway: Gateway = field(repr=False)

    @classmethod
    def at_first_that_answers(cls, invite: Invite) -> "Desk":
        """The gateway by the first of the invite's URLs under which it is there.

        :raises Failed: when it is under none; says why for each.
        """
        trust = Trust(pins=(invite.pin,)) if invite.pin else Trust()
        problems = []
        for url in invite.urls:
            gateway = Gateway(urlsplit(url), patience=PATIENCE, trust=trust)
            try:
                gateway.ask("GET", "/health").good()
                return cls(url, invite, gateway)
            except Failed as problem:
                problems.append(f"no gateway at {url}: {problem}")
        raise Failed("\n".join(problems))

    def exchange(self, token: str, now: float) -> None:
        """Have the gateway take a token for the invite; asked again with the same, it says the
        same.

        :raises NotTaken: when the invite is not valid there.
        :raises Failed: when there is no telling; the same may be asked again.
        """
        told = token_hash(token)
        assert told is not None
        body = {"invite": self.invite.key, "token": {"id": told.id, "sha256": told.sha256}}
        answer = self._gateway.ask("POST", JOIN, body)
        if answer.status == 401:
            raise NotTaken(self._why_not(now))
        answer.good()

    def knows(self, token: str) -> bool:
        """Whether the gateway lets a token in, as one of this node.

        :raises Failed: when there is no telling.
        """
        return self._about(token).status in (200, 410)

    def until_known(self, token: str) -> None:
        """Wait until the gateway lets the token in.

        :raises Failed: when that takes too long.
        """
        end = time.monotonic() + _KNOWN_WITHIN
        while (answer := self._about(token)).status in (401, 503):
            if time.monotonic() > end:
                raise Failed(f"the gateway does not take the new token: {reason(answer.json())}")
            time.sleep(_LOOK)

    def story(self, token: str) -> Any | None:
        """What the gateway knows of this node, None while it does not know it, or is away."""
        try:
            answer = self._about(token)
            return answer.json() if answer.status == 200 else None
        except Failed:
            return None

    def _about(self, token: str) -> Answer:
        path = f"/v1/nodes/{quote(self.invite.node)}"
        return evolve(self._gateway, key=token).ask("GET", path)

    def _why_not(self, now: float) -> str:
        another = f"make another one there with: rolemesh invite {self.invite.node}"
        if now > self.invite.until:
            return f"this invite expired at {shown_time(self.invite.until)}; {another}"
        return f"the gateway does not know this invite, or it was used already; {another}"


def kept_token(path: Path) -> str | None:
    """The token in a file, None when there is none.

    :raises Failed: when the file cannot be used, or holds something else.
    """
    if not path.exists():
        return None
    try:
        text = read_private(path, "").decode("ascii", "replace").strip()
    except ConfigError as error:
        raise Failed(str(error)) from None
    if token_hash(text) is None:
        raise Failed(f"{path} holds something else than a node's token: move it away")
    return text


def new_token(path: Path) -> str:
    """Make a token, and keep it before anybody is told."""
    text, _ = mint(KeyKind.NODE, os.urandom(ENTROPY), time.time())
    write_private(path, text + "\n")
    return text
