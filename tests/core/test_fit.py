"""Whether a model fits, and the sentence that says what is in the way."""

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.fit import GB, Place, Wish, cache_bytes, fit, whole_on_gpus
from rolemesh.core.gguf import Header

LLAMA_8B = Header("llama", "", 131072, 32, 4096, 32, (8,) * 32, 128, 128)
MODEL = evolve(LLAMA_8B, key_length=38, value_length=39)  # 2.4 GB for 64k
WEIGHTS = int(18.1 * GB)
FOUR = Wish(slots=4, context=65536)
GPU = Place("GPU 0", int(23.43 * GB), 32 * GB, (("ollama", int(9.8 * GB)),))


class CacheTests(SynchronousTestCase):
    def test_keys_and_values_of_all_tokens(self) -> None:
        """Llama 3 8B: 128 KiB a token with f16, known from its users; 8k of them are 1 GB."""
        self.assertEqual(cache_bytes(LLAMA_8B, Wish(1, 8192)), GB)
        self.assertEqual(cache_bytes(LLAMA_8B, Wish(4, 8192)), 4 * GB)

    def test_without_a_context_it_is_the_models_own(self) -> None:
        """llama-server then takes that for all slots together."""
        self.assertEqual(cache_bytes(LLAMA_8B, Wish(4)), 16 * GB)

    def test_quantized_caches_are_smaller(self) -> None:
        """Each of the two by its own argument, in either way of writing it."""
        half = Wish(1, 8192, ("--cache-type-k", "q8_0", "-ctv=q4_0"))
        self.assertEqual(cache_bytes(LLAMA_8B, half), int(GB / 2 * (34 / 64 + 18 / 64)))

    def test_sliding_windows_bound_their_layers(self) -> None:
        """gpt-oss: each second layer keeps 128 tokens a slot, unless all are wanted."""
        oss = Header("gpt-oss", "", 131072, 24, 2880, 64, (8,) * 24, 64, 64, window=128)
        token = 8 * 64 * 2 * 2
        bounded = 12 * token * (4 * 65536 + 4 * 128)
        self.assertEqual(cache_bytes(oss, FOUR), bounded)
        full = evolve(FOUR, args=("--swa-full",))
        self.assertEqual(cache_bytes(oss, full), 24 * token * 4 * 65536)

    def test_layers_without_attention_keep_nothing(self) -> None:
        """By their number of heads, or where only each fourth layer has attention."""
        hybrid = evolve(LLAMA_8B, kv_heads=(0, 8) * 16)
        self.assertEqual(cache_bytes(hybrid, Wish(1, 8192)), GB // 2)
        self.assertEqual(cache_bytes(evolve(LLAMA_8B, full_every=4), Wish(1, 8192)), GB // 4)

    def test_nothing_known_is_nothing_counted(self) -> None:
        """A header that tells nothing makes no warning."""
        self.assertEqual(cache_bytes(Header(), FOUR), 0)


class SentenceTests(SynchronousTestCase):
    def note(self, wish: Wish = FOUR, place: Place = GPU, weights: int = WEIGHTS) -> str:
        return fit(MODEL, weights, wish, place).note

    def test_what_is_needed_what_is_free_who_holds_it_and_what_fits(self) -> None:
        """The whole sentence of an operator's morning."""
        self.assertEqual(
            self.note(),
            "GPU 0: 4 × 64k needs 18.1 + 9.6 GB, 23.4 free, 9.8 GB held by ollama; "  # noqa: RUF001
            "fits: slots 2, or context 32k",
        )

    def test_what_fits_needs_no_word(self) -> None:
        """Half a GB is kept for what a server needs besides."""
        self.assertEqual(self.note(place=evolve(GPU, free=int(28.3 * GB))), "")
        self.assertNotEqual(self.note(place=evolve(GPU, free=28 * GB)), "")

    def test_small_holders_are_not_named(self) -> None:
        """A desktop's few MB are in nobody's way."""
        self.assertNotIn("Xorg", self.note(place=evolve(GPU, held=(("Xorg", GB // 20),))))

    def test_without_a_cure_it_says_so(self) -> None:
        """The weights may be too much already."""
        note = self.note(place=evolve(GPU, free=10 * GB))
        self.assertTrue(note.endswith("no smaller context fits beside what is held"), note)
        note = self.note(weights=40 * GB)
        self.assertTrue(note.endswith("the weights alone are more than that has"), note)

    def test_the_models_own_context_is_named_as_that(self) -> None:
        """The file of the node says none."""
        self.assertIn("128k in all needs", self.note(Wish(slots=2), evolve(GPU, free=20 * GB)))


class NeverTests(SynchronousTestCase):
    def never(self, weights: int, *args: str, **place: Any) -> bool:
        return fit(MODEL, weights, evolve(FOUR, args=args), evolve(GPU, **place)).never

    def test_only_what_can_never_be(self) -> None:
        """More weights than the card has memory; not when somebody else holds it."""
        self.assertTrue(self.never(33 * GB))
        self.assertFalse(self.never(31 * GB))
        self.assertFalse(self.never(33 * GB, total=64 * GB, parts=2))

    def test_a_part_of_a_model_may_stay_outside(self) -> None:
        """Whoever says how many layers, or which tensors, knows better; host memory is swapped."""
        for args in (("-ngl", "20"), ("--n-cpu-moe", "10"), ("--override-tensor=exps=CPU",)):
            self.assertFalse(self.never(33 * GB, *args), args)
        self.assertFalse(self.never(33 * GB, gpu=False))
        self.assertTrue(whole_on_gpus(("-ngl", "99")))
