"""GGUF files of one tensor, as small as they can be."""

import struct


def text(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def gguf(numbers: int = 1000, kind: int = 0, words: int = 0) -> bytes:
    """A whole file with so many numbers of that type, behind a vocabulary of so many words."""
    vocabulary = text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, words)
    vocabulary += text(b"word") * words
    tensor = text(b"output.weight") + struct.pack("<IQIQ", 1, numbers, kind, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + vocabulary + tensor
    return head + bytes(-len(head) % 32) + bytes(4 * numbers)
