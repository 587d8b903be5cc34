"""Short names of models."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.naming import distinct, is_later_part, is_model, parts, short_name

NAMES = {
    "Qwen3-Coder-30B-A3B-Q4_K_M.gguf": "qwen3-coder-30b",
    "Qwen3-Coder-30B-A3B-Instruct-UD-Q4_K_XL.gguf": "qwen3-coder-30b",
    "gpt-oss-20b-mxfp4.gguf": "gpt-oss-20b",
    "ggml-org_gpt-oss-120b-GGUF_gpt-oss-120b-mxfp4-00001-of-00003.gguf": "gpt-oss-120b",
    "Mistral-Small-3.2-24B-Instruct-2506-Q5_K_S.gguf": "mistral-small-3.2-24b",
    "gemma-3-27b-it-q4_0.gguf": "gemma-3-27b",
    "Llama-3.3-70B-Instruct.IQ4_XS.gguf": "llama-3.3-70b",
    "DeepSeek R1 (8B).gguf": "deepseek-r1-8b",
    "Ünïcode.gguf": "n-code",
    "$.gguf": "model",
}


class NamingTests(SynchronousTestCase):
    def test_short_names(self) -> None:
        """Without quantization, packaging and training stage, as people say them."""
        self.assertEqual({file: short_name(file) for file in NAMES}, NAMES)

    def test_no_name_twice(self) -> None:
        """Two files of one model get all of their names, and files of one name a number."""
        files = ["A-7B-Q4_0.gguf", "A-7B-Q8_0.gguf", "b.gguf", "x/b.gguf", "B-Q4_0.gguf"]
        names = distinct(files)
        self.assertEqual(names[:2], ["a-7b-q4_0", "a-7b-q8_0"])
        self.assertEqual(len(set(names)), len(files))

    def test_parts_of_a_split_model(self) -> None:
        """All of them by any of them; the first one stands for the model."""
        first, second = "m-Q4_0-00001-of-00002.gguf", "m-Q4_0-00002-of-00002.gguf"
        self.assertEqual(parts(second), [first, second])
        self.assertEqual(parts("m.gguf"), ["m.gguf"])
        self.assertEqual([is_later_part(each) for each in (first, second)], [False, True])

    def test_what_is_no_model(self) -> None:
        """Projectors and vocabularies of others are not served by themselves."""
        for file in ("mmproj-model-f16.gguf", "Qwen2-VL-mmproj-Q8_0.gguf", "ggml-vocab-llama.gguf"):
            self.assertFalse(is_model(file), file)
        self.assertFalse(is_model("model.safetensors"))
        self.assertTrue(is_model("Model.GGUF"))
