"""Whether a model will fit where it is to run, and what to say when it will not.

An estimate: the file's size for the weights, the keys and values of all tokens that may be held,
and half a GB for what a server needs besides. GB are 1024³ bytes, as makers of memory count them.
"""

import re
from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from rolemesh.core.gguf import Header

GB = 1024**3
BESIDES = GB // 2  # of each GPU: the driver's context and the buffers of a computation

# Bytes of one element of the cache, by llama.cpp's names.
_CACHE_TYPES: Mapping[str, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
_KEY_TYPE = ("-ctk", "--cache-type-k")
_VALUE_TYPE = ("-ctv", "--cache-type-v")

# Arguments with which not all of a model is on its GPUs; a layer count of 99 and more is all.
_LAYERS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
_ELSEWHERE = re.compile(r"-(ot|cmoe|ncmoe|nkvo)|--(override-tensor|(n-)?cpu-moe|no-kv-offload|rpc)")

# In which every so-many-th layer sees all of the context, the others a window; llama.cpp has these
# in its code and not in the file.
_FULL_EVERY: Mapping[str, int] = {
    "cohere2": 4,
    "exaone4": 4,
    "gemma2": 2,
    "gemma3": 6,
    "gemma3n": 5,
    "gpt-oss": 2,
    "llama4": 4,
    "olmo2": 4,
    "smallthinker": 4,
}


@frozen
class Wish:
    """How a model is to be run; `context` is tokens of one slot, 0 for the model's own in all."""

    slots: int = 1
    context: int = 0
    args: tuple[str, ...] = ()


@frozen
class Place:
    """Where it is to run: a GPU or several, or the machine's own memory. Bytes; `held` is by whom
    else, the most first."""

    name: str
    free: int
    total: int
    held: tuple[tuple[str, int], ...] = ()
    parts: int = 1
    gpu: bool = True


@frozen
class Fit:
    """The outcome. `note` is empty where it fits; `never`: no other program's end would help."""

    weights: int = 0
    cache: int = 0
    note: str = ""
    never: bool = False

    @property
    def needed(self) -> int:
        return self.weights + self.cache


def cache_bytes(header: Header, wish: Wish) -> int:
    """What keys and values of all tokens take."""
    tokens = wish.slots * wish.context or header.context
    keys = header.key_length * _element(wish.args, _KEY_TYPE)
    values = header.value_length * _element(wish.args, _VALUE_TYPE)
    held = (heads * _held(header, layer, tokens, wish) for layer, heads in _layers(header))
    return int(sum(held) * (keys + values))


def _layers(header: Header) -> Sequence[tuple[int, int]]:
    """The layers that keep anything, with their heads."""
    every = header.full_every or 1
    return [(n, heads) for n, heads in enumerate(header.kv_heads) if (n + 1) % every == 0]


def _held(header: Header, layer: int, tokens: int, wish: Wish) -> int:
    every = _FULL_EVERY.get(header.architecture, 1)
    whole = not header.window or (layer + 1) % every == 0 or "--swa-full" in wish.args
    return tokens if whole else min(tokens, header.window * wish.slots)


def _element(args: Sequence[str], names: Sequence[str]) -> float:
    return _CACHE_TYPES.get(_value_of(args, names) or "f16", 2.0)


def _value_of(args: Sequence[str], names: Sequence[str]) -> str | None:
    """The last value of an option, in either way of writing it."""
    found = None
    for index, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        if name in names:
            found = value if equals else (args[index + 1] if index + 1 < len(args) else None)
    return found


def whole_on_gpus(args: Sequence[str]) -> bool:
    """Whether all of a model goes to its GPUs, as far as its arguments tell."""
    if any(_ELSEWHERE.fullmatch(arg.partition("=")[0]) for arg in args):
        return False
    layers = _value_of(args, _LAYERS)
    return layers is None or (layers.isdigit() and int(layers) >= 99) or layers == "all"


def fit(header: Header, weights: int, wish: Wish, place: Place) -> Fit:
    """Whether the weights, in bytes, and their cache fit there."""
    cache = cache_bytes(header, wish)
    room = place.free - place.parts * BESIDES
    if weights + cache <= room:
        return Fit(weights, cache)
    never = place.gpu and whole_on_gpus(wish.args) and weights > place.total
    return Fit(weights, cache, _sentence(header, weights, wish, place, room), never)


def _sentence(header: Header, weights: int, wish: Wish, place: Place, room: int) -> str:
    asked = _asked(header, wish)
    needs = f"needs {_gb(weights)} + {_gb(cache_bytes(header, wish))} GB"
    held = [f"{_gb(size)} GB held by {name}" for name, size in place.held if size >= GB // 10]
    facts = ", ".join([needs, f"{_gb(place.free)} free", *held[:3]])
    return f"{place.name}: {asked}{facts}; {_cure(header, weights, wish, place, room)}"


def _asked(header: Header, wish: Wish) -> str:
    context = wish.context or header.context
    if not context:
        return ""
    many = f"{wish.slots} \u00d7 {_tokens(context)} "  # a multiplication sign
    return many if wish.context else f"{_tokens(context)} in all "


def _cure(header: Header, weights: int, wish: Wish, place: Place, room: int) -> str:
    rest = header, weights, wish, room
    cures = [*_fewer_slots(*rest), *_less_context(*rest)]
    if cures:
        return f"fits: {', or '.join(cures)}"
    if weights > place.total:
        return "the weights alone are more than that has"
    return "no smaller context fits beside what is held"


def _fewer_slots(header: Header, weights: int, wish: Wish, room: int) -> list[str]:
    for slots in range(wish.slots - 1, 0, -1):
        if wish.context and weights + cache_bytes(header, evolve(wish, slots=slots)) <= room:
            return [f"slots {slots}"]
    return []


def _less_context(header: Header, weights: int, wish: Wish, room: int) -> list[str]:
    """Half of it, or a quarter, and so on: what people write."""
    context = (wish.context or header.context // wish.slots) // 2
    while context >= 1024:
        if weights + cache_bytes(header, evolve(wish, context=context)) <= room:
            return [f"context {_tokens(context)}"]
        context //= 2
    return []


def _gb(size: float) -> str:
    return f"{size / GB:.1f}"


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count % 1024 == 0 else str(count)
