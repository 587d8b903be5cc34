# mypy: disable-error-code="import-not-found, import-untyped"
"""The official Anthropic SDK."""

from typing import Any

from anthropic import Anthropic

from tests.real.clients.programs.cases import COLOR, HELLO, UNKNOWN, asked, tell

url, role = asked()
client = Anthropic(base_url=url, api_key="none", max_retries=0, timeout=30)
messages: Any = [{"role": "user", "content": HELLO}]
GREEDY: Any = {"extra_body": {"temperature": 0}}  # no parameter of this SDK any more
tools: Any = [{"name": "paint", "description": "Paint it.", "input_schema": COLOR}]


def create(**options: Any) -> Any:
    settings = {"model": role, "messages": messages, "max_tokens": 12, **GREEDY, **options}
    return client.messages.create(**settings)


def message() -> Any:
    answer = create()
    read = answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    return {
        "text": answer.content[0].text,
        "stop_reason": answer.stop_reason,
        "usage": [read, answer.usage.output_tokens],
    }


def stream() -> Any:
    options: Any = {"model": role, "messages": messages, "max_tokens": 12, **GREEDY}
    with client.messages.stream(**options) as events:
        pieces = list(events.text_stream)
        final = events.get_final_message()
    return {
        "text": "".join(pieces),
        "pieces": len(pieces),
        "stop_reason": final.stop_reason,
        "output_tokens": final.usage.output_tokens,
    }


def tool() -> Any:
    answer = create(tools=tools, max_tokens=80)
    call = next(block for block in answer.content if block.type == "tool_use")
    return {"name": call.name, "input": call.input, "stop_reason": answer.stop_reason}


def streamed_tool() -> Any:
    options: Any = {"model": role, "messages": messages, "max_tokens": 80, **GREEDY}
    with client.messages.stream(tools=tools, **options) as events:
        answer = events.get_final_message()
    call = next(block for block in answer.content if block.type == "tool_use")
    return {"name": call.name, "input": call.input, "stop_reason": answer.stop_reason}


def tool_result() -> Any:
    call = {"type": "tool_use", "id": "toolu_1", "name": "paint", "input": {"color": "red"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "painted"}
    turns = [
        *messages,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    return create(messages=turns).content[0].text


def system() -> Any:
    blocks = [{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}}]
    return create(system=blocks).content[0].text


def count_tokens() -> Any:
    counted = client.messages.count_tokens(model=role, messages=messages)
    return counted.input_tokens


def models() -> Any:
    return [model.id for model in client.models.list()]


tell(
    {
        "message": message,
        "stream": stream,
        "tool": tool,
        "streamed_tool": streamed_tool,
        "tool_result": tool_result,
        "system": system,
        "count_tokens": count_tokens,
        "models": models,
        "unknown": lambda: create(model=UNKNOWN),
        "too_long": lambda: create(messages=[{"role": "user", "content": "hello " * 40000}]),
    }
)
