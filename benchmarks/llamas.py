"""Llamas of known shapes and the words of their tokenizers, for benchmarks that need no meaning."""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig

# Hidden size, feed-forward size, layers, heads, heads of keys and values, vocabulary.
SHAPES = {
    "tiny": (64, 256, 2, 4, 4, 512),
    "small": (384, 1024, 8, 6, 6, 16384),
    "smollm": (576, 1536, 30, 9, 3, 49152),
    "llama": (2048, 8192, 16, 32, 8, 128256),
}
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"]


def llama_config(shape: str, **others: Any) -> LlamaConfig:
    """The configuration of a shape of `SHAPES`, its input and output embeddings tied."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=True,
        **others,
    )
