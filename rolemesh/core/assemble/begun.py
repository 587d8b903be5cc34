"""The assistant's message that a request asks to go on with: only a whole answer repeats it."""

from collections.abc import Mapping
from typing import Any


def begun(facts: Mapping[str, Any]) -> str | None:
    """The text of that message, empty without one; None where only the server knows what it makes
    of its parts, or of a thought before it."""
    messages = facts.get("messages")
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "assistant":
        return ""
    said = last.get("content")
    if isinstance(said, list) and len(said) == 1 and isinstance(said[0], dict):
        said = said[0].get("text")
    return said if isinstance(said, str) and not last.get("reasoning_content") else None


def repeat(text: str, answer: dict[str, Any]) -> None:
    """Put the text where a whole answer to a chat, or an Anthropic message, has it."""
    messages = [choice["message"] for choice in answer.get("choices", ()) if "message" in choice]
    for message in messages:
        message["content"] = text + (message["content"] or "")
    texts = [block for block in answer.get("content", ()) if block["type"] == "text"]
    for block in texts[:1]:
        block["text"] = text + block["text"]
