"""What the double answers when it tells the truth: llama-server's routes, one function each."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tests.doubles.model import FINGERPRINT, Chat, Text, embeddings, render
from tests.doubles.reply import Reply
from tests.doubles.slots import Job, Task
from tests.doubles.wire import Request, error

if TYPE_CHECKING:
    from tests.doubles.fakellama import Fakellama

PUBLIC = ("/health", "/v1/health")
NOT_FOUND = {"error": {"message": "File Not Found", "type": "not_found_error", "code": 404}}
BAD_KEY = {"error": {"message": "Invalid API Key", "type": "authentication_error", "code": 401}}
NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"


class Invalid(Exception):
    """The request is wrong; answered with 400 as llama-server does."""

    def __init__(self, message: str, kind: str = "invalid_request_error", **details: Any) -> None:
        super().__init__(message)
        self.body = error(400, kind, message, **details)


def answer(fake: "Fakellama", request: Request, reply: Reply) -> None:
    """Answer one request truly."""
    path = request.path.split("?")[0]
    route = ROUTES.get((request.method, path))
    if path not in PUBLIC and not _authorized(fake, request):
        reply.json(401, BAD_KEY)
    elif route is None:
        reply.json(404, NOT_FOUND)
    else:
        _try(route, fake, request, reply)


def _try(route: "Route", fake: "Fakellama", request: Request, reply: Reply) -> None:
    try:
        route(fake, request, reply)
    except Invalid as wrong:
        reply.json(400, wrong.body)


def _authorized(fake: "Fakellama", request: Request) -> bool:
    return fake.api_key is None or request.header("authorization") == f"Bearer {fake.api_key}"


def health(_fake: "Fakellama", _: Request, reply: Reply) -> None:
    reply.json(200, {"status": "ok"})


def models(fake: "Fakellama", _: Request, reply: Reply) -> None:
    meta = {"n_ctx": fake.slots.n_ctx, "n_ctx_train": 4096, "n_params": 135232, "size": 540928}
    entry = {
        "id": fake.alias,
        "aliases": [fake.alias],
        "object": "model",
        "owned_by": "llamacpp",
    }
    reply.json(200, {"object": "list", "data": [{**entry, "meta": meta}]})


def props(fake: "Fakellama", _: Request, reply: Reply) -> None:
    reply.json(
        200,
        {
            "default_generation_settings": {"params": {}, "n_ctx": fake.slots.n_ctx},
            "total_slots": len(fake.slots.all),
            "model_alias": fake.alias,
            "model_path": f"{fake.alias}.gguf",
            "modalities": {"vision": False, "video": False, "audio": False},
            "endpoint_slots": True,
            "endpoint_props": False,
            "endpoint_metrics": True,
            "chat_template": "",
            "chat_template_caps": {"supports_tools": False, "supports_tool_calls": False},
            "build_info": FINGERPRINT,
            "is_sleeping": False,
        },
    )


def slot_list(fake: "Fakellama", request: Request, reply: Reply) -> None:
    fake.slots.result()
    if "fail_on_no_slot" in request.path and fake.slots.busy == len(fake.slots.all):
        reply.json(503, error(503, "unavailable_error", "no slot available"))
    else:
        reply.json(200, [slot.status() for slot in fake.slots.all])


def metrics(fake: "Fakellama", _: Request, reply: Reply) -> None:
    fake.slots.result()
    lines = [
        f"llamacpp:requests_processing {fake.slots.busy}",
        f"llamacpp:requests_deferred {len(fake.slots.waiting)}",
    ]
    reply.json(200, "\n".join([*lines, ""]).encode())


def chat(fake: "Fakellama", request: Request, reply: Reply) -> None:
    body = _body(request)
    messages = body.get("messages")
    if messages is None:
        raise Invalid("'messages' is required")
    if not isinstance(messages, list):
        raise Invalid("Expected 'messages' to be an array")
    usage = bool((body.get("stream_options") or {}).get("include_usage"))
    last = messages[-1] if messages else {"role": "user"}
    prefix = last["content"] if last["role"] == "assistant" else ""
    _work(fake, body, render(messages), Chat(_id(fake), _name(fake, reply), usage, prefix), reply)


def complete(fake: "Fakellama", request: Request, reply: Reply) -> None:
    body = _body(request)
    if "prompt" not in body:
        raise Invalid("[json.exception.out_of_range.403] key 'prompt' not found")
    _work(fake, body, body["prompt"], Text(_id(fake), _name(fake, reply)), reply)


def embed(fake: "Fakellama", request: Request, reply: Reply) -> None:
    body = _body(request)
    base64 = body.get("encoding_format") == "base64"
    if fake.embeds:
        reply.json(200, embeddings(_inputs(body), _name(fake, reply), base64))
    else:
        reply.json(501, error(501, "not_supported_error", NO_EMBEDDINGS))


def _inputs(body: dict[str, Any]) -> list[str]:
    texts = body.get("input")
    if texts is None:
        raise Invalid('"input" or "content" must be provided')
    if not texts:
        raise Invalid('"input" must not be empty')
    return [texts] if isinstance(texts, str) else texts


def _work(
    fake: "Fakellama", body: dict[str, Any], text: str, shape: Chat | Text, reply: Reply
) -> None:
    wanted, reason = _limit(fake, body)
    stream = bool(body.get("stream")) and reply.streams
    progress, timings = bool(body.get("return_progress")), bool(body.get("timings_per_token"))
    task = Task(text, wanted, reason, shape, stream, progress and stream, timings)
    room = fake.slots.n_ctx - len(task.prompt)
    if room <= 0:
        raise _too_long(fake, len(task.prompt))
    if room < wanted:
        task = Task(text, room, "length", shape, stream, progress and stream, timings)
    Job(fake.slots, task, reply)


def _limit(fake: "Fakellama", body: dict[str, Any]) -> tuple[int, str]:
    names = ("max_completion_tokens", "max_tokens", "n_predict")
    asked = next((body[name] for name in names if body.get(name) is not None), -1)
    if asked < -1:
        raise Invalid(
            f"Field 'max_tokens': Value must be between -1 <= value <= 2147483647, but got {asked}"
        )
    if asked < 0 or (asked > fake.length and not body.get("ignore_eos")):
        return fake.length, "stop"
    return max(asked, 1), "length"


def _too_long(fake: "Fakellama", count: int) -> Invalid:
    limit = fake.slots.n_ctx
    message = (
        f"request ({count} tokens) exceeds the available context size ({limit} tokens), "
        "try increasing it"
    )
    return Invalid(message, "exceed_context_size_error", n_prompt_tokens=count, n_ctx=limit)


def _id(fake: "Fakellama") -> str:
    return f"chatcmpl-{fake.port}-{len(fake.calls)}"


def _name(fake: "Fakellama", reply: Reply) -> str:
    return reply.model or fake.alias


def _body(request: Request) -> dict[str, Any]:
    try:
        body = request.json()
    except msgspec.DecodeError as wrong:
        raise Invalid(f"[json.exception.parse_error.101] parse error: {wrong}") from None
    return body if isinstance(body, dict) else {}


Route = Callable[["Fakellama", Request, Reply], None]
ROUTES: Mapping[tuple[str, str], Route] = {
    ("GET", "/health"): health,
    ("GET", "/v1/health"): health,
    ("GET", "/models"): models,
    ("GET", "/v1/models"): models,
    ("GET", "/props"): props,
    ("GET", "/slots"): slot_list,
    ("GET", "/metrics"): metrics,
    ("POST", "/chat/completions"): chat,
    ("POST", "/v1/chat/completions"): chat,
    ("POST", "/v1/completions"): complete,
    ("POST", "/v1/embeddings"): embed,
}
