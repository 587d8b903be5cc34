"""Short conversations for tests."""

import json
from typing import Any

from rolemesh.core.chains import Chain, chain_of
from rolemesh.core.openai import Api, read


def said(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


def chain(*messages: dict[str, Any], session: str | None = None, **more: Any) -> Chain:
    body = json.dumps({"model": "coder", "messages": messages, **more}).encode()
    return chain_of(read(Api.CHAT, body), session)


SYSTEM = said("system", "You are a careful engineer. " * 40)
ASK, ANSWER, MORE = said("user", "Why? " * 30), said("assistant", "So. " * 30), said("user", "And?")
