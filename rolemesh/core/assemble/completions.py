"""A text completion out of its chunks."""

from typing import Any

from rolemesh.core.assemble.chunks import Choice, Chunks, Texts


class Completions(Chunks):
    """`/v1/completions`."""

    def new_choice(self) -> Choice:
        return _TextChoice()


class _TextChoice(Choice):
    def __init__(self) -> None:
        super().__init__()
        self._texts = Texts()

    def take(self, choice: dict[str, Any]) -> int:
        kept = self._texts.add("text", choice.pop("text"))
        self.members.update(choice)
        return kept

    def answer(self) -> dict[str, Any]:
        return {**self.members, **self._texts.joined(), "logprobs": self.logprobs or None}
