"""llama-server's word on how much of a prompt it has read: asked for, and kept from the client.

While it reads a prompt, a llama-server looks about once a second whether its client is still
there, and hardly while another slot writes; but what it tells of its progress it has to send, and
then sees at once that nobody is there.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from rolemesh.core.openai import Api
from rolemesh.core.sse import BYTE_ORDER_MARK, first_data

_TELLING = (Api.CHAT, Api.COMPLETIONS)
_TRUE = msgspec.Raw(b"true")
_NEW_LINE = rb"(?:\r\n|\n|\r(?!\n|\Z))"
_END = re.compile(_NEW_LINE * 2)
_PROGRESS = b',"prompt_progress":{'  # within a text its quotes would be escaped


def can_tell(api: Api, members: Mapping[str, msgspec.Raw], facts: Mapping[str, Any]) -> bool:
    """Whether a stream may be asked for progress that its client has not asked for.

    Of several choices or prompts one is perhaps written while another's prompt is read. With
    `members` that name progress themselves, the client has decided.
    """
    if api not in _TELLING or "return_progress" in members:
        return False
    return facts.get("n") in (None, 1) and not _several(facts.get("prompt"))


def _several(prompt: Any) -> bool:
    """Whether these are prompts; a list with a token among its items is one."""
    if not isinstance(prompt, list):
        return False
    return len(prompt) > 1 and not any(isinstance(each, int) for each in prompt)


def telling(members: Mapping[str, msgspec.Raw]) -> dict[str, msgspec.Raw]:
    """The members of the same request, with progress."""
    return {**members, "return_progress": _TRUE}


class Beginning:
    """Finds the first event of a stream, before which nothing of an answer has been given.

    `told`, where it is not None, is called for events that tell of progress alone, and these are
    taken out.
    """

    def __init__(self, told: Callable[[], None] | None = None) -> None:
        self._told = told

    def __call__(self, held: bytearray) -> bool:
        """Whether the first event is in what is held of a stream."""
        if self._told is None:
            return first_data(held) is not None
        self._take_out(held, self._told)
        first = first_data(held)
        return first is not None and _PROGRESS not in first

    def _take_out(self, held: bytearray, told: Callable[[], None]) -> None:
        at = len(BYTE_ORDER_MARK) if held.startswith(BYTE_ORDER_MARK) else 0
        while (end := _END.search(held, at)) is not None:
            if held.find(_PROGRESS, at, end.start()) >= 0:
                del held[at : end.end()]
                told()
            elif held.startswith(b":", at):
                at = end.end()
            else:
                return
