"""How long a GGUF file must be, against files of the `gguf` package's own writer."""

import importlib.util
import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.gguf import NotGguf
from rolemesh.core.gguf_size import _BLOCKS, Longer, needed_size
from tests.doubles.weights import gguf, text
from tests.real.harness import need


class OracleTests(SynchronousTestCase):
    def setUp(self) -> None:
        need(importlib.util.find_spec("gguf") is not None, "the extra rolemesh[demo]")

    def written(self, alignment: int | None = None) -> bytes:
        """Three tensors of two types behind a vocabulary; the last one ends at no boundary."""
        import numpy
        from gguf import GGUFWriter
        from gguf.constants import GGMLQuantizationType

        path = Path(self.mktemp())
        writer = GGUFWriter(path, "llama")
        writer.add_chat_template("{{ messages }}" * 10)
        if alignment is not None:
            writer.add_custom_alignment(alignment)
        writer.add_token_list([f"token {number}" for number in range(300)])
        writer.add_tensor("a.weight", numpy.zeros((3, 7), dtype=numpy.float32))
        eights = numpy.zeros((2, 4 * 34), dtype=numpy.uint8)
        writer.add_tensor("b.weight", eights, raw_dtype=GGMLQuantizationType.Q8_0)
        writer.add_tensor("c.bias", numpy.zeros(5, dtype=numpy.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes()

    def test_what_is_written_is_needed(self) -> None:
        """To the byte, but for what fills up the end, with any alignment."""
        for alignment in (None, 32, 64, 4096):
            whole = self.written(alignment)
            end = 10  # the bytes of the last tensor
            filled = -(-end // (alignment or 32)) * (alignment or 32)
            self.assertEqual(needed_size(whole), len(whole) - filled + end)

    def test_sizes_of_types(self) -> None:
        """They are the package's."""
        from gguf.constants import GGML_QUANT_SIZES

        theirs = {kind.value: size for kind, size in GGML_QUANT_SIZES.items()}
        shared = _BLOCKS.keys() & theirs.keys()
        self.assertGreater(len(shared), 25)
        for kind in shared:
            self.assertEqual((kind, _BLOCKS[kind]), (kind, theirs[kind]))


class PrefixTests(SynchronousTestCase):
    """What is not there yet."""

    def test_a_head_that_goes_on(self) -> None:
        """More is asked for until the last tensor is known, and nothing of the tensors."""
        whole = gguf(words=10)
        head = len(whole) - 4000
        told = {length: needed_size(whole[:length]) for length in (head, len(whole) - 1)}
        self.assertEqual(set(told.values()), {len(whole)})
        for length in range(24, head - 32):
            self.assertRaises(Longer, needed_size, whole[:length])

    def test_a_type_that_is_unknown(self) -> None:
        """A younger llama.cpp may know it, so it counts for nothing."""
        self.assertEqual(needed_size(gguf(kind=999)), len(gguf(numbers=0)))

    def test_no_tensors(self) -> None:
        """As in the first file of some split models: the head alone."""
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
        self.assertEqual(needed_size(head + bytes(100)), len(head))

    def test_lies(self) -> None:
        """What no GGUF file has is none; what a length only claims is never taken."""
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0)
        self.assertRaises(NotGguf, needed_size, head + text(b"a") + struct.pack("<I", 5))
        endless = text(b"a") + struct.pack("<IIQ", 9, 8, 2**62) + struct.pack("<Q", 2**63)
        lying = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + endless
        self.assertRaises(Longer, needed_size, lying + bytes(100))
        self.assertRaises(NotGguf, needed_size, b"hello")

    @settings(max_examples=200, deadline=None)
    @given(some.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """They have a size, or are no file, or go on; nothing else is raised."""
        for bytes_of_file in (data, b"GGUF" + struct.pack("<IQQ", 3, 9, 9) + data):
            try:
                needed_size(bytes_of_file)
            except (NotGguf, Longer):
                continue
