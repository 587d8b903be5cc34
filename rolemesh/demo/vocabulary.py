"""The toy model's words: a byte-level vocabulary, its merges, and a ChatML template with tools."""

from attrs import frozen

TOOLS, CALL, CALL_END = "<tools>", "<tool_call>", "</tool_call>"
BEGIN, TURN, TURN_END = "<|bos|>", "<|im_start|>", "<|im_end|>"

_WORDS = (
    "the a of to and in it is was for on as with his they at be this from have or by one had not "
    "but what all were when we there can an your which their said if do will each about how up "
    "out them then she many some so mesh node route token model gpu queue port hello world red "
    "blue green"
)

TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\n# Tools\n<tools>\n' }}"
    "{% for t in tools %}{{ (t | tojson) + '\n' }}{% endfor %}"
    "{{ '</tools>\nCall one with "
    '<tool_call>{"name": ..., "arguments": ...}</tool_call>'
    "<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + (m['content'] or '') }}"
    "{% for c in m['tool_calls'] or [] %}"
    "{{ '<tool_call>{\"name\": \"' + c['function']['name'] + '\", \"arguments\": ' "
    "+ (c['function']['arguments'] | tojson) + '}</tool_call>' }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@frozen
class Vocabulary:
    """`tokens` by their ids: bytes, growing pieces of words, then `control` and `spoken` marks."""

    tokens: tuple[str, ...]
    merges: tuple[str, ...]
    words: frozenset[str]
    control: tuple[str, ...] = (BEGIN, TURN, TURN_END)
    spoken: tuple[str, ...] = (TOOLS, CALL, CALL_END)

    def all(self) -> list[str]:
        return [*self.tokens, *self.control, *self.spoken]


def byte_characters() -> list[str]:
    """GPT-2's printable stand-in for each of the 256 bytes."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(stand_ins)) for byte in range(256)]


def vocabulary() -> Vocabulary:
    """Build the vocabulary; each word is reached from its leading space, one letter a merge."""
    characters = byte_characters()
    merged: dict[str, str] = {}
    words = set()
    for word in _WORDS.split():
        piece = characters[ord(" ")]
        for letter in word:
            merged.setdefault(piece + letter, f"{piece} {letter}")
            piece += letter
        words.add(piece)
    return Vocabulary((*characters, *merged), tuple(merged.values()), frozenset(words))
