"""The head of a GGUF file, against the `gguf` package's own writer and reader."""

import importlib.util
import struct
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as some
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.gguf import PREFIX, Header, NotGguf, read_header
from tests.real.harness import need

QWEN = {
    "context_length": 262144,
    "block_count": 48,
    "embedding_length": 2048,
    "attention.head_count": 32,
    "attention.head_count_kv": 4,
    "attention.key_length": 128,
    "attention.value_length": 128,
}


def packed_text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def head(*pairs: bytes) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + b"".join(pairs)


class OracleTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        need(importlib.util.find_spec("gguf") is not None, "the extra rolemesh[demo]")

    def written(self, architecture: str, keys: dict[str, Any], tokens: int = 0) -> bytes:
        """A file of the package's own writer, its other keys around ours."""
        from gguf import GGUFWriter

        path = Path(self.mktemp())
        writer = GGUFWriter(path, architecture)
        writer.add_name("A Model")
        writer.add_array("general.tags", ["one", "two"])
        for key, value in keys.items():
            add = writer.add_array if isinstance(value, list) else writer.add_uint32
            add(f"{architecture}.{key}", value)
        writer.add_float32(f"{architecture}.rope.freq_base", 1e6)
        if tokens:
            writer.add_token_list([f"token {number}" for number in range(tokens)])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return path.read_bytes()


class ReadTests(OracleTestCase):
    def test_what_is_written_is_read(self) -> None:
        """All that an estimate needs, whatever stands between."""
        header = read_header(self.written("qwen3moe", QWEN, tokens=1000))
        expected = Header("qwen3moe", "A Model", 262144, 48, 2048, 32, (4,) * 48, 128, 128)
        self.assertEqual(header, expected)

    def test_lengths_of_heads_follow_from_the_rest(self) -> None:
        """Older files do not say them; without `head_count_kv` each head has its own."""
        keys = {"block_count": 2, "embedding_length": 64, "attention.head_count": 4}
        header = read_header(self.written("llama", keys))
        self.assertEqual((header.key_length, header.value_length), (16, 16))
        self.assertEqual(header.kv_heads, (4, 4))

    def test_heads_may_differ_from_layer_to_layer(self) -> None:
        """Layers without attention keep nothing."""
        keys = {**QWEN, "block_count": 4, "attention.head_count_kv": [0, 8, 0, 8]}
        header = read_header(self.written("jamba", keys))
        self.assertEqual(header.kv_heads, (0, 8, 0, 8))

    def test_a_real_model_says_what_the_packages_reader_says(self) -> None:
        """The generated model, key by key."""
        from gguf import GGUFReader

        from rolemesh.demo.model import write_tiny_model

        path = write_tiny_model(self.mktemp())
        fields = GGUFReader(path).fields
        header = read_header(path.read_bytes()[:PREFIX])

        def oracle(key: str) -> Any:
            return fields[f"{header.architecture}.{key}"].contents()

        self.assertEqual(header.architecture, fields["general.architecture"].contents())
        self.assertEqual(
            (header.context, header.layers, header.embedding, header.heads),
            (
                oracle("context_length"),
                oracle("block_count"),
                oracle("embedding_length"),
                oracle("attention.head_count"),
            ),
        )

    def test_any_numbers_are_read_as_they_were_written(self) -> None:
        """Whatever the order of the keys."""
        number = some.integers(1, 1000)
        keys = some.fixed_dictionaries(dict.fromkeys(QWEN, number))

        @settings(max_examples=30, deadline=None)
        @given(keys, some.randoms(use_true_random=False))
        def check(values: dict[str, int], random: Any) -> None:
            order = list(values)
            random.shuffle(order)
            header = read_header(self.written("llama", {key: values[key] for key in order}))
            self.assertEqual(header.context, values["context_length"])
            self.assertEqual(header.layers, values["block_count"])
            self.assertEqual(header.heads, values["attention.head_count"])
            kv_heads = (values["attention.head_count_kv"],) * header.layers
            self.assertEqual(header.kv_heads, kv_heads)

        check()

    def test_a_vocabulary_is_not_read(self) -> None:
        """It is long, and all that is wanted stands before it."""
        whole = self.written("qwen3moe", QWEN, tokens=200_000)
        self.assertGreater(len(whole), 2 * PREFIX)
        start = whole.index(b"tokenizer.")
        self.assertEqual(read_header(whole[: start + 20]), read_header(whole))

    def test_a_prefix_that_ends_early_tells_what_it_has(self) -> None:
        """Wherever it is cut beyond the first 24 bytes, nothing is raised."""
        whole = self.written("qwen3moe", QWEN)
        for length in range(24, len(whole)):
            header = read_header(whole[:length])
        self.assertEqual(header.layers, 48)


class HostileTests(SynchronousTestCase):
    def assertRefused(self, data: bytes, why: str) -> None:
        with self.assertRaises(NotGguf) as caught:
            read_header(data)
        self.assertEqual(str(caught.exception), why)

    def test_what_is_no_gguf_file(self) -> None:
        """It is told why."""
        self.assertRefused(b"", "it does not begin with 'GGUF'")
        self.assertRefused(b"GGUF\3\0", "it ends within its first 24 bytes")
        self.assertRefused(b"GGUF" + bytes(40), "version 0 is unknown")
        unknown = packed_text("a.b") + struct.pack("<I", 77)
        self.assertRefused(head(unknown), "a value has the unknown type 77")

    def test_lengths_that_lie_cost_nothing(self) -> None:
        """No memory is taken for what a length only claims."""
        endless = packed_text("llama.block_count") + struct.pack("<IIQ", 9, 4, 2**62)
        self.assertEqual(read_header(head(endless)), Header())
        nested = packed_text("a.b") + struct.pack("<IIQ", 9, 9, 1)
        self.assertRefused(head(nested), "a value has the unknown type 9")

    @settings(max_examples=200, deadline=None)
    @given(some.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """They are a header or not one; nothing else is raised."""
        for bytes_of_file in (data, b"GGUF" + struct.pack("<IQQ", 3, 0, 9) + data):
            try:
                read_header(bytes_of_file)
            except NotGguf:
                continue
