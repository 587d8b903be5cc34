"""The generated model file: the same options, the same model, whole or not there."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.harness import need_llama


class TinyModelFile(SynchronousTestCase):
    """`write_tiny_model` and `cached_tiny_model`."""

    def setUp(self) -> None:
        need_llama()
        self.folder = Path(self.mktemp())

    def test_same_options_make_same_bytes(self) -> None:
        """Two files of the same options are equal, and another seed makes another model."""
        from rolemesh.demo.model import write_tiny_model

        one = write_tiny_model(self.folder / "one.gguf").read_bytes()
        two = write_tiny_model(self.folder / "two.gguf").read_bytes()
        other = write_tiny_model(self.folder / "other.gguf", seed=2).read_bytes()
        self.assertEqual(one, two)
        self.assertNotEqual(one, other)

    def test_options_reach_the_file(self) -> None:
        """What is asked for can be read from the GGUF itself."""
        from gguf import GGUFReader

        from rolemesh.demo.model import write_tiny_model

        path = write_tiny_model(self.folder / "m.gguf", layers=1, ctx=512, name="small")
        fields = GGUFReader(path).fields
        self.assertEqual(fields["general.name"].contents(), "small")
        self.assertEqual(fields["llama.context_length"].contents(), 512)
        self.assertEqual(fields["llama.block_count"].contents(), 1)

    def test_cached_file_is_not_written_twice(self) -> None:
        """The second call finds the first one's file; other options have another file."""
        from rolemesh.demo.model import cached_tiny_model

        first = cached_tiny_model(self.folder)
        written = first.stat().st_mtime_ns
        self.assertEqual(cached_tiny_model(self.folder).stat().st_mtime_ns, written)
        self.assertNotEqual(cached_tiny_model(self.folder, eos_bias=1.0), first)

    def test_failed_write_leaves_nothing(self) -> None:
        """Options that make no model leave neither the file nor a part of it."""
        from rolemesh.demo.model import write_tiny_model

        self.assertRaises(ZeroDivisionError, write_tiny_model, self.folder / "m.gguf", heads=0)
        self.assertEqual(list(self.folder.iterdir()), [])
