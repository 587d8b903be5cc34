# mypy: disable-error-code="import-not-found, import-untyped"
"""litellm."""

import os
from typing import Any

from tests.real.clients.programs.cases import COLOR, HELLO, UNKNOWN, asked, tell

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else it asks the internet for prices
import litellm

url, role = asked()
litellm.telemetry = False
messages = [{"role": "user", "content": HELLO}]
tools = [{"type": "function", "function": {"name": "paint", "parameters": COLOR}}]


def complete(model: str = f"openai/{role}", **options: Any) -> Any:
    settings: Any = {"max_tokens": 12, "temperature": 0, "timeout": 30, "num_retries": 0, **options}
    base = {"api_base": f"{url}/v1", "api_key": "none"}
    return litellm.completion(model, messages, **{**base, **settings})


def completion() -> Any:
    answer = complete()
    return {"text": answer.choices[0].message.content, "usage": answer.usage.completion_tokens}


def stream() -> Any:
    pieces = [chunk.choices[0].delta.content or "" for chunk in complete(stream=True)]
    return {"text": "".join(pieces), "pieces": len(pieces)}


def tool() -> Any:
    call = complete(tools=tools, max_tokens=80).choices[0].message.tool_calls[0].function
    return {"name": call.name, "arguments": call.arguments}


def anthropic() -> Any:
    return complete(f"anthropic/{role}", api_base=url).choices[0].message.content


def too_long() -> Any:
    long = [{"role": "user", "content": "hello " * 40000}]
    return litellm.completion(
        f"openai/{role}", long, api_base=f"{url}/v1", api_key="none", num_retries=0
    )


tell(
    {
        "completion": completion,
        "stream": stream,
        "tool": tool,
        "anthropic": anthropic,
        "too_long": too_long,
        "unknown": lambda: complete(f"openai/{UNKNOWN}"),
    }
)
