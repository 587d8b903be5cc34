# mypy: disable-error-code="import-not-found, import-untyped"
"""openai-agents, which speaks the Responses API."""

import asyncio
from typing import Any, Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from tests.real.clients.programs.cases import HELLO, UNKNOWN, asked, tell

url, role = asked()
set_tracing_disabled(True)


@function_tool
def paint(color: Literal["red", "blue"]) -> str:
    """Paint it."""
    return f"painted {color}"


def agent(name: str = role, max_tokens: int = 12, **options: Any) -> Any:
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=30)
    settings = ModelSettings(temperature=0, max_tokens=max_tokens)
    model = OpenAIResponsesModel(name, client)
    return Agent(
        "helper", instructions="Be short.", model=model, model_settings=settings, **options
    )


def run() -> Any:
    answer = Runner.run_sync(agent(), HELLO)
    return {"text": answer.final_output, "usage": answer.context_wrapper.usage.output_tokens}


def two_turns() -> Any:
    first = Runner.run_sync(agent(), HELLO)
    turns = [*first.to_input_list(), {"role": "user", "content": "go on"}]
    return Runner.run_sync(agent(), turns).final_output


def stream() -> Any:
    async def streamed() -> Any:
        result = Runner.run_streamed(agent(), HELLO)
        pieces = [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event"
            and event.data.type == "response.output_text.delta"
        ]
        return {"text": "".join(pieces), "pieces": len(pieces), "final": result.final_output}

    return asyncio.run(streamed())


def tool() -> Any:
    painter = agent(max_tokens=80, tools=[paint], tool_use_behavior="stop_on_first_tool")
    return Runner.run_sync(painter, HELLO).final_output


tell(
    {
        "run": run,
        "two_turns": two_turns,
        "stream": stream,
        "tool": tool,
        "unknown": lambda: Runner.run_sync(agent(UNKNOWN), HELLO),
    }
)
