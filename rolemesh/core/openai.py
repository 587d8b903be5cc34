"""Requests as clients send them: which API, which role, streamed or not; what goes upstream."""

import re
from collections.abc import Mapping
from enum import Enum
from json import detect_encoding
from typing import Any

import msgspec
from attrs import evolve, field, frozen

from rolemesh.core.errors import Refusal
from rolemesh.core.model import Params
from rolemesh.core.nesting import brackets, depth

MAX_DEPTH = 64
MOST_MEMBERS = 1000  # of the body itself; llama-server takes minutes over a hundred thousand
MOST_BRACKETS = 1_000_000  # opening and closing; more are no request, but work for the parser


class Api(Enum):
    """The POST routes that are answered by a backend; the value is the path, here and upstream."""

    CHAT = "/v1/chat/completions"
    COMPLETIONS = "/v1/completions"
    EMBEDDINGS = "/v1/embeddings"
    RESPONSES = "/v1/responses"
    MESSAGES = "/v1/messages"
    COUNT_TOKENS = "/v1/messages/count_tokens"
    RERANK = "/v1/rerank"
    INFILL = "/infill"
    TOKENIZE = "/tokenize"
    DETOKENIZE = "/detokenize"
    APPLY_TEMPLATE = "/apply-template"

    @property
    def generates(self) -> bool:
        """Whether a model works at it, which takes a slot; else the server answers it beside."""
        return self not in (
            Api.COUNT_TOKENS,
            Api.TOKENIZE,
            Api.DETOKENIZE,
            Api.APPLY_TEMPLATE,
        )

    @property
    def streams(self) -> bool:
        """Whether an answer may be asked for as a stream."""
        return self.generates and self not in (Api.EMBEDDINGS, Api.RERANK)

    @property
    def anthropic(self) -> bool:
        return self in (Api.MESSAGES, Api.COUNT_TOKENS)


# Fields that reach into a server's insides; a slot is the gateway's to choose, with a backend.
_FORBIDDEN: Mapping[str, str] = {
    "n_discard": "it can crash llama-server",
    "lora": "adapters are set where the model is started",
}

_NO_PARAMS = Params()

_raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
_whole = msgspec.json.Decoder()


@frozen
class Ask:
    """What one request asks for.

    `members` are the body's top-level members as they came, `facts` the same decoded; `model` is
    the name that the client used, None when it named none.
    """

    api: Api
    model: str | None
    stream: bool
    members: Mapping[str, msgspec.Raw] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    size: int = 0

    def with_params(self, params: Params) -> "Ask":
        """The same with a role's `params` applied."""
        if params == _NO_PARAMS:
            return self
        members = {**_encoded(params.default), **self.members, **_encoded(params.set)}
        facts = {**params.default, **self.facts, **params.set}
        return evolve(
            self,
            members={name: raw for name, raw in members.items() if name not in params.drop},
            facts={name: fact for name, fact in facts.items() if name not in params.drop},
        )


def encode(members: Mapping[str, msgspec.Raw], model: str | None) -> bytes:
    """The body that goes upstream: each top-level key once; `model` None leaves what is there."""
    if model is None:
        return msgspec.json.encode(members)
    return msgspec.json.encode({**members, "model": model})


def _encoded(values: Mapping[str, Any]) -> dict[str, msgspec.Raw]:
    return {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}


def read(api: Api, body: bytes) -> Ask:
    """Read a client's request once.

    :raises Refusal: invalid_encoding, invalid_json or unsupported_parameter; never with the text.
    """
    facts = _decode(body)
    _refuse_forbidden(facts)
    model = facts.get("model")
    if model is not None and not isinstance(model, str):
        raise Refusal("invalid_json", "'model' must be a string: a role's name.", param="model")
    stream = facts.get("stream", False)
    if stream is not None and not isinstance(stream, bool):
        raise Refusal("invalid_json", "'stream' must be true or false.", param="stream")
    streams = bool(stream) and api.streams
    return Ask(api, model or None, streams, _raw.decode(body), facts, len(body))


def _decode(body: bytes) -> dict[str, Any]:
    _refuse_other_encodings(body)
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _depth(body) > MAX_DEPTH:
        raise Refusal("invalid_json", f"The body is nested deeper than {MAX_DEPTH} levels.")
    try:
        facts = _whole.decode(body)
    except msgspec.DecodeError as error:
        if _HALF_A_PAIR.search(body):
            raise Refusal("invalid_encoding", "The body has half a surrogate pair.") from None
        raise Refusal("invalid_json", f"The body cannot be read as JSON: {error}.") from None
    if not isinstance(facts, dict):
        raise Refusal("invalid_json", 'The body must be a JSON object, as {"model": …}.')
    if len(facts) > MOST_MEMBERS:
        raise Refusal("invalid_json", f"The body has more than {MOST_MEMBERS} members.")
    return facts


def _refuse_other_encodings(body: bytes) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refusal(
            "invalid_encoding", f"The body is not UTF-8: byte {error.start} cannot be decoded."
        ) from None
    if detect_encoding(body) not in ("utf-8", "utf-8-sig"):
        raise Refusal("invalid_encoding", "The body is not UTF-8 but UTF-16 or UTF-32.")


_HALF_A_PAIR = re.compile(
    rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL
)


def _depth(body: bytes) -> int:
    """How deep arrays and objects are nested; at least as deep as any valid beginning is."""
    marks = brackets(body)
    if len(marks) > MOST_BRACKETS:
        raise Refusal("invalid_json", f"The body has more than {MOST_BRACKETS} arrays and objects.")
    return depth(marks)


def _refuse_forbidden(facts: Mapping[str, Any]) -> None:
    for name, why in _FORBIDDEN.items():
        if facts.get(name) is not None:
            raise Refusal("unsupported_parameter", f"'{name}' is not accepted: {why}.", param=name)
    slot = facts.get("id_slot")
    if isinstance(slot, int | float) and slot > -1:  # llama-server cuts -0.5 to 0
        raise Refusal(
            "unsupported_parameter",
            "'id_slot' is not accepted: the gateway chooses where a request runs. Leave it out.",
            param="id_slot",
        )
