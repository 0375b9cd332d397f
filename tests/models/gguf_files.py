"""A Llama's folder as a GGUF file, as llama.cpp's converter writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import (
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    TokenType,
    get_tensor_name_map,
    quantize,
)
from gguf.constants import MODEL_ARCH
from transformers import AutoModelForCausalLM, AutoTokenizer

Array = npt.NDArray[np.float32]
FILE_TYPES = {"F32": LlamaFileType.ALL_F32, "Q8_0": LlamaFileType.MOSTLY_Q8_0}


def write_gguf(
    folder: Path,
    path: Path,
    kind: str = "F32",
    *,
    architecture: str = "llama",
    extra_tensors: dict[str, Array] | None = None,
    extra_keys: dict[str, str | int] | None = None,
) -> Path:
    """The Llama in `folder` with its weights as `kind` (F32 or Q8_0); norms stay float32."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = model.config
    writer = GGUFWriter(path, architecture)
    writer.add_name("Tiny Llama")
    writer.add_license("apache-2.0")
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    for name, value in (extra_keys or {}).items():
        write = writer.add_uint16 if isinstance(value, int) else writer.add_string
        write(name, value)  # type: ignore[operator]
    _add_tokenizer(writer, folder)
    for name, weight in {**_tensors(model), **(extra_tensors or {})}.items():
        if kind == "F32" or weight.ndim == 1:
            writer.add_tensor(name, weight)
        else:
            rounded = GGMLQuantizationType[kind]
            writer.add_tensor(name, quantize(weight, rounded), raw_dtype=rounded)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(model: Any) -> dict[str, Array]:
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    tensors = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            # llama.cpp turns neighbouring pairs of a head, transformers its two halves.
            halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
            weight = halves.swapaxes(1, 2).reshape(weight.shape)
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        tensors[found] = np.ascontiguousarray(weight)
    return tensors


def _add_tokenizer(writer: GGUFWriter, folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = set(tokenizer.all_special_tokens) | {
        str(token) for token in tokenizer.added_tokens_decoder.values()
    }
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
