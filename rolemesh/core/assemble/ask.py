"""How a non-streaming request is changed so that llama-server answers it as a stream."""

from collections.abc import Mapping
from typing import Any

import msgspec

from rolemesh.core.assemble.begun import begun
from rolemesh.core.openai import Api

_TRUE, _FALSE = msgspec.Raw(b"true"), msgspec.Raw(b"false")
_WITH_USAGE = msgspec.Raw(b'{"include_usage":true}')
_CHUNKED = (Api.CHAT, Api.COMPLETIONS)
STREAMED = (*_CHUNKED, Api.RESPONSES, Api.MESSAGES)


def as_stream(
    api: Api, members: Mapping[str, msgspec.Raw], facts: Mapping[str, Any]
) -> dict[str, msgspec.Raw] | None:
    """The members of a request for the same answer as a stream; `facts` are `members`, decoded.

    None when a stream would say less than the answer itself: then send the request as it is.
    """
    if api not in STREAMED or _says_more_at_once(facts):
        return None
    changed = {"stream": _TRUE}
    if api in _CHUNKED:
        changed["stream_options"] = _WITH_USAGE
        changed.update(
            {name: _FALSE for name in ("timings_per_token", "return_progress") if name in members}
        )
    return {**members, **changed}


def _says_more_at_once(facts: Mapping[str, Any]) -> bool:
    """Whether the server tells in a whole answer what it does not tell in a stream.

    `verbose` echoes the request. Probabilities beside tools are refused in a stream; beside stop
    strings, those of the tokens that made up the stop string are only taken out of a whole answer.
    An assistant's message to go on with is repeated in a whole answer, joined in its own way.
    """
    probabilities = facts.get("logprobs") or facts.get("n_probs")
    return bool(
        facts.get("verbose")
        or (probabilities and (facts.get("tools") or facts.get("stop")))
        or begun(facts) is None
    )
