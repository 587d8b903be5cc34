# mypy: disable-error-code="import-not-found, import-untyped"
"""pydantic-ai with its OpenAI model."""

import asyncio
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from tests.real.clients.programs.cases import HELLO, UNKNOWN, asked, tell

url, role = asked()
provider = OpenAIProvider(base_url=f"{url}/v1", api_key="none")
settings: Any = {"max_tokens": 12, "temperature": 0, "timeout": 30}


class Painted(BaseModel):
    """What was painted."""

    color: Literal["red", "blue"]


def agent(name: str = role, **options: Any) -> Any:
    return Agent(OpenAIChatModel(name, provider=provider), model_settings=settings, **options)


def run() -> Any:
    answer = agent().run_sync(HELLO)
    return {"text": answer.output, "usage": answer.usage.output_tokens}


def stream() -> Any:
    async def streamed() -> Any:
        async with agent().run_stream(HELLO) as result:
            pieces = [piece async for piece in result.stream_text(delta=True, debounce_by=None)]
        return {"text": "".join(pieces), "pieces": len(pieces)}

    return asyncio.run(streamed())


def structured(output: Any) -> Any:
    wordy = {**settings, "max_tokens": 80}
    return agent(output_type=output).run_sync(HELLO, model_settings=wordy).output.model_dump()


tell(
    {
        "run": run,
        "stream": stream,
        "by_tool": lambda: structured(Painted),
        "by_schema": lambda: structured(NativeOutput(Painted)),
        "unknown": lambda: agent(UNKNOWN).run_sync(HELLO),
    }
)
