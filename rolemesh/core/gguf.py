"""The head of a GGUF file: the few keys that tell how much memory a model needs."""

import struct
from collections.abc import Iterator, Mapping

from attrs import frozen

PREFIX = 1024 * 1024  # bytes; what is read here stands before the vocabulary

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_LITTLE, _BIG = "<", ">"
_STRING, _ARRAY = 8, 9
_SCALARS: Mapping[int, str] = {
    **dict(enumerate("BbHhIif?")),
    10: "Q",
    11: "q",
    12: "d",
}
LONGEST_KEY = 64 * 1024  # bytes, as GGUF allows
_MOST_KEPT = 4096  # elements of an array that is kept: a number for each layer

# What is kept of `<architecture>.…` and of `general.…`.
_OF_ARCHITECTURE = (
    "context_length",
    "block_count",
    "embedding_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "full_attention_interval",
)
_GENERAL = ("general.architecture", "general.name")
_VOCABULARY = "tokenizer."  # stands behind all that is wanted, and is long

Value = int | float | bool | str | tuple[int | float | bool, ...]


class NotGguf(Exception):
    """The bytes are not the head of a GGUF file; says why."""


@frozen
class Header:
    """What a model says of itself; 0 is unknown, `kv_heads` is a number for each layer.

    `key_length` and `value_length` are numbers of one head, `window` is how many tokens a layer
    with a sliding window keeps, `full_every` that only each so-many-th layer keeps any at all.
    """

    architecture: str = ""
    name: str = ""
    context: int = 0
    layers: int = 0
    embedding: int = 0
    heads: int = 0
    kv_heads: tuple[int, ...] = ()
    key_length: int = 0
    value_length: int = 0
    window: int = 0
    full_every: int = 0


def read_header(prefix: bytes) -> Header:
    """Read the head of a file from its first bytes; what lies beyond them is unknown.

    Arrays are stepped over and not built, but for those with a number for each layer.

    :raises NotGguf: when it is none.
    """
    reader = Reader(prefix)
    _, count = reader.begin()
    return _header(dict(reader.pairs(count)))


class Ended(Exception):
    """The bytes end here."""


class Reader:
    """Walks over the bytes; nothing is taken from beyond them, whatever lengths they claim. `at` is
    how far it has come."""

    def __init__(self, data: bytes) -> None:
        self.at = 0
        self._data = data
        self._order = _LITTLE

    def begin(self) -> tuple[int, int]:
        """How many tensors there are, and how many pairs.

        :raises NotGguf: when it is none.
        """
        if self._data[:4] != _MAGIC:
            raise NotGguf("it does not begin with 'GGUF'")
        try:
            self.at = 4
            self._order = _LITTLE if self.scalar("I") in _VERSIONS else _BIG
            self.at = 4
            version = self.scalar("I")
            if version not in _VERSIONS:
                raise NotGguf(f"version {version} is unknown")
            return int(self.scalar("Q")), int(self.scalar("Q"))
        except Ended:
            raise NotGguf("it ends within its first 24 bytes") from None

    def pairs(self, count: int) -> Iterator[tuple[str, Value]]:
        """The pairs that are wanted, as far as the prefix goes."""
        try:
            for _ in range(count):
                key = self.text(LONGEST_KEY)
                if key.startswith(_VOCABULARY):
                    return
                value = self.value(int(self.scalar("I")), _wanted(key))
                if value is not None:
                    yield key, value
        except Ended:
            return

    def value(self, kind: int, wanted: bool) -> Value | None:
        """One value; None where it is stepped over.

        :raises NotGguf: when it is of an unknown kind.
        :raises Ended: when it is longer than what is here.
        """
        if kind == _STRING and wanted:
            return self.text()
        if kind == _STRING:
            self._skip(int(self.scalar("Q")))
            return None
        if kind == _ARRAY:
            return self._array(wanted)
        value = self.scalar(_format(kind))
        return value if wanted else None

    def _array(self, wanted: bool) -> Value | None:
        kind, length = int(self.scalar("I")), int(self.scalar("Q"))
        if kind == _STRING:
            self._skip_texts(length)
            return None
        form = _format(kind)
        if not wanted or length > _MOST_KEPT:
            self._skip(length * struct.calcsize(form))
            return None
        return tuple(self.scalar(form) for _ in range(length))

    def scalar(self, form: str) -> int | float | bool:
        """A number, by the letter that `struct` has for it; raises Ended."""
        start = self.at
        self._skip(struct.calcsize(form))
        (value,) = struct.unpack_from(self._order + form, self._data, start)
        found: int | float | bool = value
        return found

    def text(self, longest: int = PREFIX) -> str:
        """A text, or what has its length before it; raises Ended."""
        length = int(self.scalar("Q"))
        if length > longest:
            raise Ended
        start = self.at
        self._skip(length)
        return self._data[start : self.at].decode("utf-8", "replace")

    def _skip(self, length: int) -> None:
        if self.at + length > len(self._data):
            raise Ended
        self.at += length

    def _skip_texts(self, count: int) -> None:
        """A vocabulary has hundreds of thousands, so this is a tight loop."""
        length_at, data = struct.Struct(f"{self._order}Q").unpack_from, self._data
        at, last = self.at, len(data) - 8
        for _ in range(count):
            if at > last:
                raise Ended
            at += 8 + length_at(data, at)[0]
        self.at = at
        self._skip(0)


def _format(kind: int) -> str:
    if kind not in _SCALARS:
        raise NotGguf(f"a value has the unknown type {kind}")
    return _SCALARS[kind]


def _wanted(key: str) -> bool:
    return key in _GENERAL or key.partition(".")[2] in _OF_ARCHITECTURE


def _header(kept: Mapping[str, Value]) -> Header:
    architecture = str(kept.get("general.architecture", ""))

    def number(key: str) -> int:
        value = kept.get(f"{architecture}.{key}", 0)
        return int(value) if isinstance(value, int | float) and value > 0 else 0

    layers, embedding = number("block_count"), number("embedding_length")
    in_layers = _most(kept.get(f"{architecture}.attention.head_count"))
    heads = number("attention.head_count") or in_layers
    head_length = embedding // heads if heads else 0
    return Header(
        architecture=architecture,
        name=str(kept.get("general.name", "")),
        context=number("context_length"),
        layers=layers,
        embedding=embedding,
        heads=heads,
        kv_heads=_each(kept.get(f"{architecture}.attention.head_count_kv"), heads, layers),
        key_length=number("attention.key_length") or head_length,
        value_length=number("attention.value_length") or head_length,
        window=number("attention.sliding_window"),
        full_every=number("full_attention_interval"),
    )


def _most(value: Value | None) -> int:
    return max((int(each) for each in value), default=0) if isinstance(value, tuple) else 0


def _each(value: Value | None, otherwise: int, layers: int) -> tuple[int, ...]:
    """A number for each layer, from one for all, from as many, or from what holds by default."""
    if isinstance(value, tuple):
        return tuple(max(0, int(each)) for each in value)
    number = int(value) if isinstance(value, int | float) and value > 0 else otherwise
    return (number,) * min(layers, _MOST_KEPT)
