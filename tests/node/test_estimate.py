"""Whether a model fits here: files on the disk, samples of NVML."""

import importlib.util
from pathlib import Path

from attrs import evolve
from msgspec.structs import replace
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.config.node import GpuChoice, Run
from rolemesh.core.fit import GB
from rolemesh.core.gguf import Header
from rolemesh.core.report import GpuProcess, GpuReport
from rolemesh.node.estimate import Weights, estimate, read_weights
from tests.real.harness import need

HEADER = Header("llama", "", 131072, 32, 4096, 32, (8,) * 32, 128, 128)
WEIGHTS = Weights(HEADER, 5 * GB)
CARD = GpuReport(uuid="GPU-a", index=0, memory_total=24 * GB, memory_used=10 * GB)
RUN = Run("gpu0", "m", Path("m.gguf"), GpuChoice((0,)), slots=1, context=65536)  # a cache of 8 GB


class GpuTests(SynchronousTestCase):
    def test_what_fits_is_silent(self) -> None:
        """13.5 of 14 free GB."""
        self.assertEqual(estimate(RUN, WEIGHTS, [CARD]).note, "")

    def test_what_does_not_fit_says_who_is_in_the_way(self) -> None:
        """Processes of one name are one holder."""
        held = (GpuProcess("ollama", 7, 4 * GB), GpuProcess("ollama", 8, 5 * GB))
        card = replace(CARD, memory_used=12 * GB, processes=held)
        note = estimate(RUN, WEIGHTS, [card]).note
        self.assertIn("GPU 0: 1 × 64k needs 5.0 + 8.0 GB, 12.0 free, 9.0 GB", note)  # noqa: RUF001
        self.assertIn("held by ollama; fits: context 32k", note)

    def test_two_cards_are_one_place(self) -> None:
        """Their memory counts together, what a server needs besides on each."""
        second = replace(CARD, uuid="GPU-b", index=1, memory_used=23 * GB)
        note = estimate(evolve(RUN, slots=2), WEIGHTS, [CARD, second]).note
        self.assertTrue(note.startswith("GPU 0, 1: 2 × 64k needs 5.0 + 16.0 GB, 15.0 free"), note)  # noqa: RUF001

    def test_the_memory_of_its_own_last_process_is_free_by_then(self) -> None:
        """A sample may be five seconds old, a restart comes after one."""
        card = replace(CARD, memory_used=23 * GB, processes=(GpuProcess("llama", 7, 13 * GB),))
        self.assertEqual(estimate(RUN, WEIGHTS, [card], ended=7).note, "")
        self.assertNotEqual(estimate(RUN, WEIGHTS, [card]).note, "")

    def test_A17_where_nobody_tells_nothing_is_said(self) -> None:
        """No NVML, a card without its memory, a file without a head."""
        silent = replace(CARD, memory_used=None)
        for weights, gpus in ((WEIGHTS, []), (WEIGHTS, [silent]), (Weights(Header(), GB), [CARD])):
            self.assertEqual(estimate(evolve(RUN, context=2**20), weights, gpus).note, "")

    def test_a_machine_without_gpus_is_judged_by_its_memory(self) -> None:
        """It warns, and refuses nothing: a file that is mapped need not fit."""
        fit = estimate(evolve(RUN, gpu=GpuChoice()), Weights(HEADER, 10**16), [])
        self.assertIn("this machine: 1 × 64k needs", fit.note)  # noqa: RUF001
        self.assertFalse(fit.never)


class ReadTests(SynchronousTestCase):
    def test_the_head_of_a_real_model(self) -> None:
        """Its size is the file's."""
        need(importlib.util.find_spec("gguf") is not None, "the extra rolemesh[demo]")
        from rolemesh.demo.model import write_tiny_model

        path = write_tiny_model(self.mktemp())
        weights = read_weights(path)
        self.assertEqual((weights.header.layers, weights.size), (2, path.stat().st_size))

    def test_a_split_model_counts_all_its_files(self) -> None:
        """The entry names the first one."""
        folder = Path(self.mktemp())
        folder.mkdir()
        for number in (1, 2, 3):
            (folder / f"m-0000{number}-of-00003.gguf").write_bytes(b"x" * number)
        self.assertEqual(read_weights(folder / "m-00001-of-00003.gguf").size, 6)

    def test_A37_a_missing_part_is_a_missing_file(self) -> None:
        """Told before llama-server has to find it."""
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "m-00001-of-00002.gguf").touch()
        with self.assertRaises(FileNotFoundError):
            read_weights(folder / "m-00001-of-00002.gguf")
