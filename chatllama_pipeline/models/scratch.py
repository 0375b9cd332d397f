"""A small Llama with random weights and a byte-level BPE trained on the assistant's own texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from chatllama_pipeline.models.chat import CHAT_TEMPLATE

PAD, END = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = [PAD, END, "<|system|>", "<|user|>", "<|assistant|>"]


@dataclass(frozen=True)
class ScratchSize:
    """Sizes of a model made from nothing; `vocabulary` is at most, `max_length` in tokens."""

    hidden_size: int
    layers: int
    heads: int
    vocabulary: int
    max_length: int


def make_scratch_model(texts: Iterable[str], size: ScratchSize, seed: int, folder: Path) -> int:
    """Write tokenizer and randomly drawn weights to `folder`; returns the number of weights.

    The same texts, size and seed give the same files, byte for byte.
    """
    tokenizer = train_tokenizer(texts, size.vocabulary, size.max_length)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        # 8/3 of the hidden size is Llama's own ratio; a multiple of 32 suits the matrix kernels.
        intermediate_size=-(-size.hidden_size * 8 // 3 // 32) * 32,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        max_position_embeddings=size.max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def train_tokenizer(
    texts: Iterable[str], vocabulary: int, max_length: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most `vocabulary` ids, with role marks, pad and end token; no BOS."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=SPECIAL_TOKENS[2:],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
