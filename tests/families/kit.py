"""Every family of models as a tiny random one in hub format, with a tokenizer of its kind.

Weights are wider than the libraries would draw them, so that what a model reads changes what it
says; dropout is on where the family's default has it on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from tests.families.vocabulary import tokenizer_kinds as kinds

POSITIONS = 96


@dataclass(frozen=True)
class Family:
    """`name`, the published model it stands for, its class, tokenizer and config's values."""

    name: str
    stands_for: str
    model: str
    tokenizer: Callable[[], Any]
    config: dict[str, Any]

    def make(self, folder: Path) -> Path:
        """Write config, weights and tokenizer to `folder`, as the hub has them."""
        tokenizer = self.tokenizer()
        kind = getattr(transformers, self.model)
        values = {"vocab_size": embeddings(tokenizer), **_ids(tokenizer), **self.config}
        return save_random(lambda: kind(kind.config_class(**values)), tokenizer, folder)


def save_random(make: Callable[[], PreTrainedModel], tokenizer: Any, folder: Path) -> Path:
    """The model that `make` makes, with random weights as wide as its choices want them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = widened(make())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def widened(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with weights so wide that what it reads changes what it says; drawn by torch."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.3)
    return model


def embeddings(tokenizer: Any) -> int:
    """The ids of a tokenizer, padded to a multiple of 8, as published embeddings often are."""
    return -(-len(tokenizer) // 8) * 8


def _ids(tokenizer: Any) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    found = {name: getattr(tokenizer, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
_LIMIT = {"max_position_embeddings": POSITIONS}
_OPT = {**_SMALL, **_LIMIT, "ffn_dim": 64}
_LLAMA = {**_SMALL, **_LIMIT, "intermediate_size": 64, "num_key_value_heads": 2}
_T5 = {"d_model": 32, "d_kv": 8, "num_heads": 4, "d_ff": 64, "num_layers": 2}

ACTORS = [
    Family("llama", "meta LLaMA", "LlamaForCausalLM", kinds.llama, _LLAMA),
    Family("gptj", "EleutherAI/gpt-j-6B", "GPTJForCausalLM", kinds.gpt2, {**_GPT, "rotary_dim": 4}),
    Family(
        "gpt_neox", "EleutherAI/gpt-neox-20b", "GPTNeoXForCausalLM", kinds.gpt_neox,
        {**_SMALL, **_LIMIT, "intermediate_size": 64, "rotary_pct": 0.25},
    ),
    Family(
        "gpt_neo", "EleutherAI/gpt-neo-1.3B", "GPTNeoForCausalLM", kinds.gpt2,
        {
            "hidden_size": 32, "num_layers": 2, "num_heads": 4, **_LIMIT,
            "attention_types": [[["global", "local"], 1]], "window_size": 8,
        },
    ),
    Family("opt", "facebook/opt-1.3b", "OPTForCausalLM", kinds.opt, _OPT),
    Family(
        "opt_350m", "facebook/opt-350m", "OPTForCausalLM", kinds.opt,
        {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False},
    ),
    Family(
        "galactica", "facebook/galactica-1.3b", "OPTForCausalLM", kinds.galactica,
        {
            **_OPT, "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2,
            "activation_function": "gelu", "enable_bias": False,
        },
    ),
    Family(
        "bloom", "bigscience/bloom-560m", "BloomForCausalLM", kinds.bloom,
        {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
    Family(
        "bloomz", "bigscience/bloomz-560m", "BloomForCausalLM", kinds.bloom,
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "slow_but_exact": False},
    ),
    Family(
        "codegen", "Salesforce/codegen-350M-mono", "CodeGenForCausalLM", kinds.codegen,
        {**_GPT, "n_ctx": POSITIONS, "rotary_dim": 4},
    ),
    Family("gpt2", "gpt2", "GPT2LMHeadModel", kinds.gpt2, _GPT),
    Family(
        "flan_t5", "google/flan-t5-small", "T5ForConditionalGeneration", kinds.t5,
        {
            **_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
            "decoder_start_token_id": 0,
        },
    ),
    Family(
        "llama3", "meta-llama/Llama-3.2-1B-Instruct", "LlamaForCausalLM", kinds.llama3,
        {**_LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0},
         "tie_word_embeddings": True},
    ),
    Family(
        "qwen3", "Qwen/Qwen3-0.6B", "Qwen3ForCausalLM", kinds.qwen3, {**_LLAMA, "head_dim": 16}
    ),
    Family(
        "mistral", "mistralai/Mistral-7B-Instruct-v0.2", "MistralForCausalLM", kinds.mistral,
        {**_LLAMA, "sliding_window": 12},
    ),
    Family(
        "gemma3", "google/gemma-3-1b-it", "Gemma3ForCausalLM", kinds.gemma3,
        {**_LLAMA, "vocab_size": kinds.GEMMA_EMBEDDINGS, "head_dim": 16, "sliding_window": 12,
         "query_pre_attn_scalar": 16, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    Family(
        "phi", "microsoft/phi-2", "PhiForCausalLM", kinds.codegen,
        {**_SMALL, **_LIMIT, "intermediate_size": 64},
    ),
    Family(
        "smollm", "HuggingFaceTB/SmolLM2-135M-Instruct", "LlamaForCausalLM", kinds.smollm,
        {**_LLAMA, "tie_word_embeddings": True},
    ),
]  # fmt: skip
_NAMED = {family.name: family for family in ACTORS}
PRETRAINED_REWARDS = [
    Family(
        "deberta_v3", "OpenAssistant/reward-model-deberta-v3-large-v2",
        "DebertaV2ForSequenceClassification", kinds.deberta_v3,
        {
            **_SMALL, **_LIMIT, "intermediate_size": 64, "num_labels": 1,
            "relative_attention": True, "position_buckets": 8, "norm_rel_ebd": "layer_norm",
            "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "type_vocab_size": 0,
            "position_biased_input": False,
        },
    ),
    Family(
        "electra", "OpenAssistant/reward-model-electra-large-discriminator",
        "ElectraForSequenceClassification", kinds.electra,
        {**_SMALL, **_LIMIT, "intermediate_size": 64, "num_labels": 1, "embedding_size": 16},
    ),
]  # fmt: skip
REWARDS = [
    *(_NAMED[name] for name in ("gpt2", "opt", "gptj", "bloomz", "llama", "flan_t5")),
    *PRETRAINED_REWARDS,
]
