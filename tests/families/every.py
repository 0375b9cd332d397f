"""Every family of language models in transformers as a tiny random one, by its config class.

Sizes are set wherever a config has them; what a family needs besides stands in OWN. Weights are
wider than the libraries would draw them, so that what a model reads changes what it says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from tests.families.kit import embeddings, save_random
from tests.families.vocabulary import tokenizer_kinds as kinds

MOST_WEIGHTS = 2 * 10**7


def _same(value: int, names: str) -> dict[str, int]:
    """The same value under each of several names."""
    return dict.fromkeys(names.split(), value)


SIZES: dict[str, Any] = {
    **_same(32, "hidden_size d_model n_embd dim emb_dim moe_intermediate_size"),
    **_same(32, "shared_expert_intermediate_size moe_shared_expert_intermediate_size"),
    **_same(2, "num_hidden_layers num_layers n_layer n_layers encoder_layers decoder_layers"),
    **_same(2, "num_decoder_layers num_encoder_layers num_key_value_heads num_experts_per_tok"),
    **_same(4, "num_attention_heads n_head n_heads num_heads encoder_attention_heads"),
    **_same(4, "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads"),
    **_same(4, "num_experts num_local_experts n_routed_experts time_step_rank mamba_dt_rank"),
    **_same(64, "intermediate_size ffn_dim d_ff encoder_ffn_dim decoder_ffn_dim n_inner"),
    **_same(64, "ffn_hidden_size mamba_d_ssm"),
    **_same(8, "d_kv head_dim state_size mamba_d_state mamba_n_heads mamba_d_head kv_lora_rank"),
    **_same(8, "q_lora_rank qk_rope_head_dim qk_nope_head_dim v_head_dim linear_key_head_dim"),
    **_same(8, "linear_value_head_dim"),
    **_same(96, "max_position_embeddings n_positions n_ctx max_seq_len"),
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
    "n_shared_experts": 1,
    "qk_head_dim": 16,
    "sliding_window": 12,
}
# Their keys are compressed, and as many as their queries.
LATENT = _same(
    4, "axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu"
)
MIXED = {"layer_types": ["linear_attention", "full_attention"]}
CONVOLVED = {"layer_types": ["conv", "full_attention"]}
OWN: dict[str, dict[str, Any]] = {
    **{name: {"head_dim": None, "num_key_value_heads": heads} for name, heads in LATENT.items()},
    **dict.fromkeys(("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text", "olmo_hybrid"), MIXED),
    "minimax": MIXED,
    **dict.fromkeys(("lfm2", "lfm2_moe", "lfm3"), CONVOLVED),
    "bailing_hybrid": {"head_dim": None, "num_key_value_heads": 4, **MIXED},
    "bamba": {"attn_layer_indices": [1]},
    "codegen": {"rotary_dim": 4},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 8, "laurel_rank": 4,
        "vocab_size_per_layer_input": 512, "activation_sparsity_pattern": None,
    },
    "gemma4_text": {
        "layer_types": ["sliding_attention", "full_attention"], "hidden_size_per_layer_input": 8,
        "vocab_size_per_layer_input": 512,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 16},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "full_attention", "moe", "mlp"],
        "mamba_num_heads": 8, "mamba_head_dim": 8, "n_groups": 1, "ssm_state_size": 8,
        "chunk_size": 16,
    },
    "recurrent_gemma": {"block_types": ["recurrent", "attention"], "lru_width": 32},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"], "mamba_ngroups": 1,
        "n_mamba_heads": 8, "chunk_size": 16, "use_mamba_kernels": False,
    },
}  # fmt: skip
# They see or hear, and their text alone is another family; or no tiny one of them is made here.
LEFT_OUT = _same(
    0,
    "aria_text audioflamingo3 axk1 blt cohere_compass_text dots3_note dots3_note_text emu3 "
    "encoder-decoder fuyu gemma3 gemma3n gemma4 gemma4_assistant gemma4_unified "
    "gemma4_unified_assistant gemma4_unified_text git glmasr got_ocr2 granite_speech "
    "granite_speech_plus inkling2_text inkling_text kimi_linear llama4 longcat_flash mllama moshi "
    "moss_transcribe_diarize musicflamingo musicgen musicgen_melody nemo_speechlm phi4_multimodal "
    "qwen2_audio qwen3_5 qwen3_5_moe qwen3_asr qwen4_exp qwen4_exp_text reformer seamless_m4t "
    "seamless_m4t_v2 t5gemma t5gemma2 trocr vibevoice_asr voxtral voxtral_realtime whisper zamba "
    "zaya",
)


def families() -> list[str]:
    """The model types of the sweep: what writes, as transformers maps it."""
    writers = {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    fillers = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    written = set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    return sorted(writers - (fillers - written) - set(LEFT_OUT))


def sized(family: str, sizes: dict[str, Any], own: dict[str, Any], *besides: str) -> Any:
    """The config of a `model_type`, with those of `sizes` that it has by name, and its `own`.

    `besides` are names that all configs have.
    """
    kind = CONFIG_MAPPING[family]
    names = {*kind().to_dict(), *kind.attribute_map, *besides}
    values = {name: size for name, size in sizes.items() if name in names} | own
    return kind(**{name: value for name, value in values.items() if value is not None})


def make(family: str, folder: Path) -> Path:
    """Write a tiny model of that `model_type` to `folder`, as the hub has them."""
    tokenizer = kinds.opt()
    own = {"vocab_size": embeddings(tokenizer), **OWN.get(family, {})}
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        own[name] = getattr(tokenizer, name)
    config = sized(family, SIZES, own)
    seq2seq = family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    if seq2seq:
        config.decoder_start_token_id = tokenizer.bos_token_id
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    with torch.device("meta"):
        weights = auto.from_config(config).num_parameters()
    if weights > MOST_WEIGHTS:
        raise ValueError(f"{family} has {weights:,} weights: its sizes have other names")
    return save_random(lambda: auto.from_config(config), tokenizer, folder)
