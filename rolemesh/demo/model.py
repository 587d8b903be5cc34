"""A tiny but valid GGUF chat model, written from nothing: fit for demos and tests without weights.

Its text is nonsense on purpose, but always whole English words: residual dimension 0 is constant
and serves as an output bias, so that bytes, parts of words and marks are hardly ever sampled, and
it does not stop by itself. Dimensions 1 and 2 carry two facts: "the prompt offers tools", found by
one attention head that looks for `<tools>`, makes it begin a tool call, which llama-server's
grammar completes; "the call is complete" makes it stop.
"""

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from attrs import frozen

from rolemesh.demo import vocabulary as words

_REVISION = 1  # of what the same options make; part of a cached file's name
_FACTS = 3  # residual dimensions that no block may write to


@frozen
class TinyModel:
    """What a generated model is made of; the same options make the same model.

    `ctx` is the training context in tokens; `eos_bias` -60 never stops by itself, 2 stops
    soon. 24 layers of 512 with 8 heads make 253 MB and a model slow enough to watch.
    """

    layers: int = 2
    embd: int = 64
    heads: int = 4
    ctx: int = 4096
    seed: int = 1
    name: str = "rolemesh-tiny"
    eos_bias: float = -60.0

    def file_name(self) -> str:
        """A name that tells every option, so that a cached file is never another model's."""
        shape = f"l{self.layers}-e{self.embd}-h{self.heads}-c{self.ctx}"
        return f"{self.name}-{shape}-s{self.seed}-b{self.eos_bias:g}-r{_REVISION}.gguf"


def write_tiny_model(path: str | os.PathLike[str], **options: Any) -> Path:
    """Write a generated model to `path`, whole or not at all; options are `TinyModel`'s."""
    target, model = Path(path), TinyModel(**options)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        _write(partial, model)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def cached_tiny_model(folder: str | os.PathLike[str], **options: Any) -> Path:
    """The generated model of these options in `folder`, written when it is not there yet."""
    path = Path(folder) / TinyModel(**options).file_name()
    return path if path.exists() else write_tiny_model(path, **options)


def _write(path: Path, model: TinyModel) -> None:
    vocabulary = words.vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    _describe(writer, model, len(vocabulary.all()))
    _add_tokenizer(writer, vocabulary)
    for name, tensor in _Weights(model, vocabulary).tensors():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: gguf.GGUFWriter, model: TinyModel, tokens: int) -> None:
    writer.add_name(model.name)
    writer.add_context_length(model.ctx)
    writer.add_embedding_length(model.embd)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.embd * 2)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.heads)
    writer.add_rope_dimension_count(model.embd // model.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)


def _add_tokenizer(writer: gguf.GGUFWriter, vocabulary: words.Vocabulary) -> None:
    tokens = vocabulary.all()
    types = [gguf.TokenType.NORMAL] * len(vocabulary.tokens)
    types += [gguf.TokenType.CONTROL] * len(vocabulary.control)
    types += [gguf.TokenType.USER_DEFINED] * len(vocabulary.spoken)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(list(vocabulary.merges))
    writer.add_bos_token_id(tokens.index(words.BEGIN))
    writer.add_eos_token_id(tokens.index(words.TURN_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(words.TEMPLATE)


class _Weights:
    """The tensors of one model, drawn in a fixed order from its seed."""

    def __init__(self, model: TinyModel, vocabulary: words.Vocabulary) -> None:
        self._model = model
        self._vocabulary = vocabulary
        self._ids = {token: number for number, token in enumerate(vocabulary.all())}
        self._random = np.random.default_rng(model.seed)

    def tensors(self) -> list[tuple[str, np.ndarray]]:
        ones = np.ones(self._model.embd, np.float32)
        found = [
            ("token_embd.weight", self._embedding()),
            ("output_norm.weight", ones),
            ("output.weight", self._output()),
        ]
        for layer in range(self._model.layers):
            found += [(f"blk.{layer}.{name}.weight", part) for name, part in self._block(layer)]
        return found

    def _matrix(self, rows: int, columns: int, scale: float = 1.0) -> np.ndarray:
        drawn: np.ndarray = self._random.standard_normal((rows, columns))
        return np.asarray(drawn * (scale / np.sqrt(columns)), np.float32)

    def _embedding(self) -> np.ndarray:
        root = np.sqrt(self._model.embd)
        weights = self._matrix(len(self._ids), self._model.embd, root)
        weights[:, 0] = 4.0
        weights[:, 1:_FACTS] = 0.0
        for mark, dimension, value in ((words.TOOLS, 1, root), (words.CALL_END, 2, 4.0)):
            weights[self._ids[mark], 1:] = 0.0
            weights[self._ids[mark], dimension] = value
        return weights

    def _output(self) -> np.ndarray:
        weights = self._matrix(len(self._ids), self._model.embd, 3.0)
        weights[:, 1:_FACTS] = 0.0
        weights[:, 0] = [0.0 if token in self._vocabulary.words else -30.0 for token in self._ids]
        blanks = [words.byte_characters()[byte] for byte in b"\t\n\r "]
        for token in blanks:  # so that a grammar's optional white space stays short
            weights[self._ids[token], 0] = -45.0
        for token in (words.BEGIN, words.TURN, words.TOOLS):
            weights[self._ids[token], 0] = -60.0
        weights[self._ids[words.TURN_END], 0] = self._model.eos_bias
        weights[self._ids[words.TURN_END], 2] = 120.0
        weights[self._ids[words.CALL], :2] = (-10.0, 20.0)
        weights[self._ids[words.CALL_END], :2] = (-10.0, 10.0)
        return weights

    def _block(self, layer: int) -> list[tuple[str, np.ndarray]]:
        wide, narrow = self._model.embd * 2, self._model.embd
        ones = np.ones(narrow, np.float32)
        query, key, value = (self._matrix(narrow, narrow, 1.5) for _ in "qkv")
        attention_out = _spare_facts(self._matrix(narrow, narrow))
        if layer == 0:
            self._look_for_tools(query, key, value)
            attention_out[1, 0] = 1.0
        return [
            ("attn_norm", ones),
            ("ffn_norm", ones),
            ("attn_q", query),
            ("attn_k", key),
            ("attn_v", value),
            ("attn_output", attention_out),
            ("ffn_gate", self._matrix(wide, narrow)),
            ("ffn_up", self._matrix(wide, narrow)),
            ("ffn_down", _spare_facts(self._matrix(narrow, wide))),
        ]

    def _look_for_tools(self, query: np.ndarray, key: np.ndarray, value: np.ndarray) -> None:
        """Make head 0 look at `<tools>` and copy its dimension 1."""
        head = self._model.embd // self._model.heads
        query[:head, :] = key[:head, :] = 0.0
        query[head - 1, 0] = key[head - 1, 1] = 2.0  # the pair that RoPE turns slowest
        value[0, :] = 0.0
        value[0, 1] = 1.0


def _spare_facts(weights: np.ndarray) -> np.ndarray:
    weights[:_FACTS, :] = 0.0
    return weights
