# mypy: disable-error-code="import-not-found, import-untyped"
"""langchain-openai."""

from typing import Any, Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from tests.real.clients.programs.cases import HELLO, UNKNOWN, asked, tell

url, role = asked()


def model(**options: Any) -> Any:
    settings: Any = {"model": role, "max_tokens": 12, "temperature": 0, "timeout": 30, **options}
    return ChatOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, **settings)


@tool
def paint(color: Literal["red", "blue"]) -> str:
    """Paint it."""
    return f"painted {color}"


class Painted(BaseModel):
    """What was painted."""

    color: Literal["red", "blue"]


def invoke() -> Any:
    answer = model().invoke(HELLO)
    return {"text": answer.content, "usage": answer.usage_metadata["output_tokens"]}


def stream() -> Any:
    chunks = list(model(stream_usage=True).stream(HELLO))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return {
        "text": whole.content,
        "pieces": len(chunks),
        "usage": whole.usage_metadata["output_tokens"],
    }


def tools() -> Any:
    calls = model(max_tokens=80).bind_tools([paint]).invoke(HELLO).tool_calls
    return [(call["name"], call["args"]) for call in calls]


def tool_turn() -> Any:
    bound = model(max_tokens=80).bind_tools([paint])
    asked_for = bound.invoke(HELLO)
    call = asked_for.tool_calls[0]
    told = ToolMessage(paint.invoke(call["args"]), tool_call_id=call["id"])
    return model().invoke([HumanMessage(HELLO), asked_for, told]).content


def structured() -> Any:
    found = model(max_tokens=80).with_structured_output(Painted, method="json_schema")
    return found.invoke(HELLO).model_dump()


def responses() -> Any:
    return model(use_responses_api=True).invoke(HELLO).text


tell(
    {
        "invoke": invoke,
        "stream": stream,
        "tools": tools,
        "tool_turn": tool_turn,
        "structured": structured,
        "responses": responses,
        "unknown": lambda: model(model=UNKNOWN).invoke(HELLO),
    }
)
