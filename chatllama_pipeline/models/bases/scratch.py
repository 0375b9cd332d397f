"""A small model with random weights and a byte-level BPE trained on the assistant's own texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PreTrainedTokenizerFast,
)

from chatllama_pipeline.models.chat.template import CHAT_TEMPLATE, ENCODER_DECODER_TEMPLATE
from chatllama_pipeline.settings.section import ScratchFamily

MODEL_TYPES = {"gemma3": "gemma3_text"}
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
    family: ScratchFamily = "llama"

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.heads


def make_scratch_model(texts: Iterable[str], size: ScratchSize, seed: int, folder: Path) -> int:
    """Write tokenizer and randomly drawn weights to `folder`; returns the number of weights.

    The same texts, size and seed give the same files, byte for byte.
    """
    tokenizer = train_tokenizer(texts, size.vocabulary, size.max_length)
    config = _config(size, tokenizer)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if config.is_encoder_decoder:
        tokenizer.chat_template = ENCODER_DECODER_TEMPLATE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(model.num_parameters())


def _config(size: ScratchSize, tokenizer: PreTrainedTokenizerFast) -> Any:
    """The family's config at that size; what it says of itself besides is the library's default."""
    common = {
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden_size,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "max_position_embeddings": size.max_length,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    # 8/3 of the hidden size is Llama's own ratio; a multiple of 32 suits the matrix kernels.
    gated = -(-size.hidden_size * 8 // 3 // 32) * 32
    llama = {"intermediate_size": gated, "num_key_value_heads": size.heads}
    headed = {**llama, "head_dim": size.head_size}
    plain = {"intermediate_size": 4 * size.hidden_size}
    rotary = {"rotary_dim": size.head_size // 2 * 2}
    own: dict[ScratchFamily, dict[str, Any]] = {
        "llama": llama,
        "mistral": headed,
        "qwen3": headed,
        "gemma3": {**headed, "query_pre_attn_scalar": size.head_size},
        "phi": plain,
        "gpt_neo": {**plain, "attention_types": [[["global"], size.layers]]},
        "gpt_neox": plain,
        "gptj": rotary,
        "codegen": {**rotary, "n_ctx": size.max_length},
        "opt": {"ffn_dim": 4 * size.hidden_size, "word_embed_proj_dim": size.hidden_size},
        "t5": {
            "d_kv": size.head_size,
            "d_ff": gated,
            "num_decoder_layers": size.layers,
            "feed_forward_proj": "gated-gelu",
            "decoder_start_token_id": tokenizer.pad_token_id,
        },
    }
    kind = CONFIG_MAPPING[MODEL_TYPES.get(size.family, size.family)]
    return kind(**common, **own.get(size.family, {}))


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
