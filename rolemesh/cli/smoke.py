"""`rolemesh smoke URL`: does this gateway do its job, for every role? A line a step."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote

from rolemesh.cli.client import Failed, Gateway, base_url, reason
from rolemesh.cli.gateway_arguments import add_trust_arguments, trust_of
from rolemesh.cli.shown import refuse
from rolemesh.config.problems import printable

QUESTION = [{"role": "user", "content": "Say hello."}]
MAX_TOKENS = 16

T = TypeVar("T")


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser("smoke", help="try a gateway: health, models, a chat a role")
    command.add_argument("url", metavar="URL", type=base_url, help="such as http://127.0.0.1:8000")
    command.add_argument("--key", help="a client key (default: $ROLEMESH_KEY)")
    add_trust_arguments(command)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Show each step; 0 when all of them passed, else 1."""
    key = arguments.key or os.environ.get("ROLEMESH_KEY")
    try:
        gateway = Gateway(arguments.url, key, trust=trust_of(arguments))
    except Failed as error:
        return refuse("smoke", error)
    return 0 if smoke(gateway) else 1


def smoke(gateway: Gateway) -> bool:
    """Take, and show, every step that can be taken; whether all passed."""
    steps = Steps()
    if steps.take("health", health, gateway) is None:
        return steps.finish()
    steps.take("ready", ready, gateway)
    for model in steps.take("models", models, gateway) or ():
        name = model["id"]
        steps.take(f"{name}: retrieve", retrieve, gateway, name)
        if _has_backend(model):
            steps.take(f"{name}: chat", chat, gateway, name)
            steps.take(f"{name}: streamed chat", streamed_chat, gateway, name)
        else:
            steps.take(f"{name}: chat", unready, gateway, name)
    return steps.finish()


class Steps:
    """Shows each step as it is taken, and counts."""

    def __init__(self) -> None:
        self._passed, self._failed = ("✓", "✗") if sys.stdout.isatty() else ("ok", "FAILED")
        self._results: list[bool] = []

    def take(self, name: str, act: Callable[..., T], *arguments: object) -> T | None:
        """What the step returns, None when it failed."""
        began = monotonic()
        try:
            result = act(*arguments)
        except Failed as error:
            self._show(self._failed, name, began, str(error))
            self._results.append(False)
            return None
        self._show(self._passed, name, began)
        self._results.append(True)
        return result

    def finish(self) -> bool:
        """Show the count; whether all passed."""
        failed = self._results.count(False)
        print(f"{len(self._results) - failed} passed, {failed} failed", flush=True)
        return not failed

    def _show(self, mark: str, name: str, began: float, reason: str = "") -> None:
        took = round(1000 * (monotonic() - began))
        print(f"{mark} {printable(name)} {took} ms {printable(reason)}".rstrip(), flush=True)


def health(gateway: Gateway) -> Any:
    """The process lives."""
    return gateway.ask("GET", "/health").good()


def ready(gateway: Gateway) -> Any:
    """Every role has a backend."""
    answer = gateway.ask("GET", "/ready")
    if answer.status == 503:
        raise Failed("; ".join(_unready(answer.json())) or "no role is ready")
    return answer.good()


def models(gateway: Gateway) -> list[Mapping[str, Any]]:
    """There are roles."""
    match gateway.ask("GET", "/v1/models").good():
        case {"data": [*entries]} if entries and all(_is_model(entry) for entry in entries):
            return entries
        case {"data": []}:
            raise Failed("there is no role; name one in the gateway's configuration")
        case _:
            raise Failed("the answer is no list of models")


def retrieve(gateway: Gateway, name: str) -> None:
    """A role can be looked up by its name."""
    found = gateway.ask("GET", f"/v1/models/{quote(name)}").good()
    if not _is_model(found) or found["id"] != name:
        raise Failed("another model than the one asked for")


def chat(gateway: Gateway, name: str) -> None:
    """A role answers."""
    body = {"model": name, "messages": QUESTION, "max_tokens": MAX_TOKENS}
    match gateway.ask("POST", "/v1/chat/completions", body).good():
        case {"choices": [{"message": {"role": "assistant"}}, *_]}:
            return
        case _:
            raise Failed("the answer has no message")


def streamed_chat(gateway: Gateway, name: str) -> None:
    """A role answers in events, to the end."""
    body = {"model": name, "messages": QUESTION, "max_tokens": MAX_TOKENS, "stream": True}
    chunks = 0
    for data in gateway.events("/v1/chat/completions", body):
        if data == b"[DONE]":
            if not chunks:
                raise Failed("the stream ended without an answer")
            return
        chunks += _is_chunk(data)
    raise Failed("the stream broke off before [DONE]")


def unready(gateway: Gateway, name: str) -> NoReturn:
    """A role without a ready backend fails with the gateway's own reason."""
    reasons = _unready(gateway.ask("GET", "/ready").json(), name)
    raise Failed("; ".join(reasons) or "no backend is ready")


def _unready(body: Any, only: str | None = None) -> list[str]:
    """What the body of `/ready` says of the roles, or of one, that have no ready backend."""
    roles = body.get("roles") if isinstance(body, dict) else None
    told = []
    for name, standing in roles.items() if isinstance(roles, dict) else ():
        match standing:
            case {"ready": 0, "total": total, "missing": [*missing]} if only in (None, name):
                told.append(f"{name} 0/{total} {', '.join(map(str, missing))}".rstrip())
    return told


def _is_model(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("id"), str)


def _has_backend(model: Mapping[str, Any]) -> bool:
    """Whether the gateway says so; a server that is no gateway of ours says nothing."""
    match model.get("rolemesh"):
        case {"ready": int(count)}:
            return count > 0
        case _:
            return True


def _is_chunk(data: bytes) -> bool:
    try:
        chunk = json.loads(data)
    except ValueError:
        raise Failed("an event is not JSON") from None
    if not isinstance(chunk, dict) or "error" in chunk:
        raise Failed(reason(chunk))
    return bool(chunk.get("choices"))
