"""Short names for models, from the names that their files have in the world."""

import re
from collections.abc import Sequence

_PART = re.compile(r"-\d{5}-of-(\d{5})(?=\.gguf\Z)", re.IGNORECASE)
_PROJECTOR = re.compile(r"(^|[-_.])mmproj([-_.]|$)", re.IGNORECASE)
_VOCABULARY = re.compile(r"ggml-vocab-", re.IGNORECASE)

# What llama.cpp's own cache puts before a file's name: the owner and the repository.
_REPOSITORY = re.compile(r".*[-_.]gguf_(?=.)", re.IGNORECASE)

_QUANTIZATION = re.compile(
    r"[-._](ud-)?(i1-)?(i?q\d\w*|mxfp4(_moe)?|nvfp4|tq\d_\d|bf16|f16|f32|fp16|fp32|fp8)\Z",
    re.IGNORECASE,
)
_ADORNMENT = re.compile(
    r"[-._](gguf|instruct|it|chat|a\d+(\.\d+)?b|imat|imatrix|qat|\d{4})\Z", re.IGNORECASE
)


def is_model(file: str) -> bool:
    """Whether a file of that name may hold weights that are served by themselves."""
    plain = file.lower().endswith(".gguf")
    return plain and not _PROJECTOR.search(file) and not _VOCABULARY.match(file)


def parts(file: str) -> Sequence[str]:
    """The names of all files of a model of which one is given; one alone when it is not split."""
    found = _PART.search(file)
    if found is None:
        return [file]
    before, behind = file[: found.start()], file[found.end() :]
    return [f"{before}-{n:05}-of-{found[1]}{behind}" for n in range(1, int(found[1]) + 1)]


def is_later_part(file: str) -> bool:
    """Whether it is a part of a split model, and not the first."""
    return parts(file)[0] != file


def short_name(file: str) -> str:
    """What a model is called, such as `qwen3-coder-30b`: fit for a role's name as well."""
    name = _plain(file)
    name = _QUANTIZATION.sub("", name)
    while (shorter := _ADORNMENT.sub("", name)) != name:
        name = shorter
    return name or "model"


def long_name(file: str) -> str:
    """As `short_name`, with all that tells it from others that have the same short one."""
    return _plain(file) or "model"


def _plain(file: str) -> str:
    name = _PART.sub("", file)
    name = _REPOSITORY.sub("", name)
    name = re.sub(r"\.gguf\Z", "", name, flags=re.IGNORECASE).lower()
    return re.sub(r"[^a-z0-9._-]+", "-", name).strip("._-")[:64].rstrip("._-")


def distinct(files: Sequence[str]) -> Sequence[str]:
    """A name for each file, short where that is enough, and none twice."""
    short = [short_name(file) for file in files]
    names: list[str] = []
    for file, name in zip(files, short, strict=True):
        names.append(_free(name if short.count(name) == 1 else long_name(file), names))
    return names


def _free(name: str, taken: Sequence[str]) -> str:
    free, number = name, 2
    while free in taken:
        free, number = f"{name[:60]}-{number}", number + 1
    return free
