"""Which models a machine is to run on its first day, where, and for how many requests of which
length: the choices that `rolemesh init` writes down."""

from collections.abc import Iterator, Sequence

from attrs import field, frozen

from rolemesh.core.fit import BESIDES, GB, Place, Wish, fit
from rolemesh.core.gguf import Header

# What is tried, the first that fits is taken: slots, and tokens of one request. Agents need room
# for one long conversation more than for a second one.
_ON_GPU = ((4, 65536), (4, 32768), (2, 65536), (2, 32768), (1, 32768), (1, 16384), (1, 8192))
_ON_HOST = ((2, 32768), (2, 16384), (1, 16384), (1, 8192))
_LEAST = 4096  # tokens; with less there is no use
_RESERVE = 2 * GB  # of the machine's memory, for all that else runs there

_OTHER_THAN_CHAT = ("bert", "t5encoder", "clip", "wavtokenizer", "diffusion")
_OTHER_BY_NAME = ("embed", "rerank", "bge-", "e5-", "minilm", "draft")


@frozen
class Found:
    """A model on the disk: its short name, its size in bytes, and what its head says."""

    name: str
    size: int
    header: Header = field(factory=Header)

    @property
    def chats(self) -> bool:
        """Whether it is one that answers chats, and no helper of another."""
        by_kind = any(kind in self.header.architecture for kind in _OTHER_THAN_CHAT)
        return not by_kind and not any(word in self.name for word in _OTHER_BY_NAME)


@frozen
class Choice:
    """A model where it is to run: the index of a GPU, all of them, or None for neither; `context`
    0 is the model's own."""

    model: Found
    gpu: int | str | None
    slots: int
    context: int
    why: str


@frozen
class Plan:
    """What runs, and of each other model why it does not."""

    chosen: tuple[Choice, ...]
    left: tuple[tuple[Found, str], ...]


def make_plan(
    models: Sequence[Found], gpus: Sequence[tuple[int, Place]], host: Place, alike: bool = False
) -> Plan:
    """A model for each GPU, the largest first; one for all together where none fits alone; without
    GPUs one for the machine. `alike`: the same model everywhere."""
    able = sorted((each for each in models if each.chats), key=lambda each: -each.size)
    chosen = tuple(_for_gpus(able, gpus, alike) if gpus else _first(able, None, host, _ON_HOST))
    if not chosen and gpus:
        chosen = tuple(_first(able, None, host, _ON_HOST))
    taken = {choice.model.name for choice in chosen}
    rest = [each for each in models if each.name not in taken]
    return Plan(chosen, tuple((each, _why_left(each, gpus, host)) for each in rest))


def _for_gpus(
    able: Sequence[Found], gpus: Sequence[tuple[int, Place]], alike: bool
) -> Iterator[Choice]:
    found: list[Choice] = []
    for index, place in sorted(gpus, key=lambda each: -each[1].total):
        found += _first(_preferred(able, found, alike), index, place, _ON_GPU)
    if not found and len(gpus) > 1:
        found += _first(able, "all", _together([place for _, place in gpus]), _ON_GPU)
    return iter(sorted(found, key=lambda choice: choice.gpu if isinstance(choice.gpu, int) else -1))


def _preferred(able: Sequence[Found], found: Sequence[Choice], alike: bool) -> Sequence[Found]:
    """Another model than those that run already, if it is not much smaller; else one of these."""
    if not found:
        return able
    taken = [choice.model for choice in found]
    if alike:
        return [each for each in able if each in taken]
    others = [each for each in able if each not in taken and each.size * 3 >= taken[0].size]
    return [*others, *taken, *able]


def _first(
    models: Sequence[Found],
    gpu: int | str | None,
    place: Place,
    ladder: Sequence[tuple[int, int]],
) -> list[Choice]:
    """The first of the models that fits, with the most of the ladder with which it does."""
    for model in models:
        for slots, context in _steps(model.header, ladder):
            if _fits(model, slots, context, place):
                return [Choice(model, gpu, slots, context, _why(model, slots, context, place))]
    return []


def _steps(header: Header, ladder: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The ladder as far as the model was trained; of a model that tells nothing only its own."""
    if not header.layers:
        return [(1, 0)]
    most = header.context or ladder[-1][1]
    steps = [(slots, min(context, most)) for slots, context in (*ladder, (1, _LEAST))]
    return list(dict.fromkeys(steps))


def _fits(model: Found, slots: int, context: int, place: Place) -> bool:
    room = place if place.gpu else _reserved(place)
    return not fit(model.header, model.size, Wish(slots, context), room).note


def _reserved(place: Place) -> Place:
    return Place(place.name, place.free - _RESERVE, place.total, gpu=False)


def _together(places: Sequence[Place]) -> Place:
    free, total = sum(each.free for each in places), sum(each.total for each in places)
    return Place("all GPUs", free, total, parts=len(places))


def _why(model: Found, slots: int, context: int, place: Place) -> str:
    needed = fit(model.header, model.size, Wish(slots, context), place)
    facts = f"{shown_size(needed.weights)} of weights"
    if needed.cache:
        facts += f" + {shown_size(needed.cache)} for {slots} x {_tokens(context)} tokens"
    return f"{facts}; {place.name} has {shown_size(place.free)} free"


def _why_left(model: Found, gpus: Sequence[tuple[int, Place]], host: Place) -> str:
    if not model.chats:
        return "it is not for chats (embeddings and rerankers take arguments of their own)"
    places = [place for _, place in gpus] or [host]
    roomiest = max(places, key=lambda place: place.free)
    if model.size + BESIDES * roomiest.parts > roomiest.free:
        free = shown_size(roomiest.free)
        return f"{shown_size(model.size)} do not fit: {roomiest.name} has {free} free"
    return "another one was chosen"


def shown_size(size: float) -> str:
    """Bytes as people read them."""
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 2**20:.1f} MB"


def _tokens(count: int) -> str:
    return f"{count // 1024}k" if count % 1024 == 0 else str(count)
