"""How long a GGUF file must be, by what its own head says of its tensors."""

from collections.abc import Mapping
from math import prod

from rolemesh.core.gguf import LONGEST_KEY, Ended, NotGguf, Reader

_ALIGNMENT = "general.alignment"
_USUAL_ALIGNMENT = 32
_MOST_DIMENSIONS = 4

# How many numbers of a tensor stand together, in how many bytes, by the number of its type in
# GGML; numbers that are not here were taken back, or are younger than this table.
_BLOCKS: Mapping[int, tuple[int, int]] = {
    0: (1, 4),  # F32
    1: (1, 2),  # F16
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    9: (32, 40),  # Q8_1
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    24: (1, 1),  # I8
    25: (1, 2),  # I16
    26: (1, 4),  # I32
    27: (1, 8),  # I64
    28: (1, 8),  # F64
    29: (256, 56),  # IQ1_M
    30: (1, 2),  # BF16
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
}


class Longer(Exception):
    """The head goes on behind these bytes."""


def needed_size(prefix: bytes) -> int:
    """How many bytes a file that begins like this has at least, when all of it is there. A tensor
    of a type that is unknown here counts for none beyond its beginning.

    :raises NotGguf: when it is none.
    :raises Longer: when more of it must be read to know.
    """
    reader = Reader(prefix)
    tensors, pairs = reader.begin()
    try:
        alignment = _pass_pairs(reader, pairs)
        end = max((_end_of_tensor(reader) for _ in range(tensors)), default=None)
    except Ended:
        raise Longer from None
    return reader.at if end is None else -(-reader.at // alignment) * alignment + end


def _pass_pairs(reader: Reader, count: int) -> int:
    """To what the tensors are aligned, as the pairs say."""
    alignment: object = None
    for _ in range(count):
        key = reader.text(LONGEST_KEY)
        value = reader.value(int(reader.scalar("I")), key == _ALIGNMENT)
        alignment = value if key == _ALIGNMENT else alignment
    return alignment if isinstance(alignment, int) and alignment > 0 else _USUAL_ALIGNMENT


def _end_of_tensor(reader: Reader) -> int:
    """Where one ends behind the beginning of all of them."""
    reader.text(LONGEST_KEY)
    dimensions = int(reader.scalar("I"))
    if dimensions > _MOST_DIMENSIONS:
        raise NotGguf(f"a tensor has {dimensions} dimensions")
    numbers = prod(int(reader.scalar("Q")) for _ in range(dimensions))
    block, size = _BLOCKS.get(int(reader.scalar("I")), (1, 0))
    return int(reader.scalar("Q")) + numbers // block * size
