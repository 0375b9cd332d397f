"""Sizes of models by their configs' classes, and by their weights' shapes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    CONFIG_MAPPING,
    BartConfig,
    BartForSequenceClassification,
    DbrxConfig,
    EncoderDecoderConfig,
    Gemma4TextConfig,
    GPT2Config,
    LlamaConfig,
    MptConfig,
    PreTrainedConfig,
    Qwen3MoeConfig,
    T5Config,
    XLNetConfig,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
)

from chatllama_pipeline.models.memory.sizes import ModelSize, cached_floats, model_size, size_of
from tests.models.memory.plans import make_folder

FAMILIES = sorted(
    {*MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
)
# Its defaults contradict each other.
WITHOUT_DEFAULTS = {"gemma4_assistant"}
SHAPES = {
    "model.embed.weight": [320, 24],
    "model.layers.0.up.weight": [88, 24],
    "model.layers.1.up.weight": [88, 24],
    "model.norm.weight": [24],
}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - WITHOUT_DEFAULTS))
def test_every_family_that_writes_has_sizes(family: str) -> None:
    size = size_of(CONFIG_MAPPING[family](), SHAPES)
    assert min(size.layers, size.hidden, size.intermediate, size.vocabulary) > 0
    assert size.hidden <= size.vocabulary or family in ("musicgen", "musicgen_melody", "blt")
    assert size.weights == 320 * 24 + 2 * 88 * 24 + 24


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # layers, hidden, intermediate, vocabulary
        (LlamaConfig(), (32, 4096, 11008, 32000)),
        (GPT2Config(), (12, 768, 88, 50257)),
        (GPT2Config(n_inner=300), (12, 768, 300, 50257)),
        (BartConfig(), (12 + 12, 1024, 4096, 50265)),
        (BartConfig(encoder_layers=3, decoder_layers=5, encoder_ffn_dim=70, decoder_ffn_dim=90),
         (8, 1024, 90, 50265)),
        (T5Config(num_layers=3, num_decoder_layers=5), (8, 512, 2048, 32128)),
        (MptConfig(n_layers=7, d_model=96), (7, 96, 88, 50368)),
        (DbrxConfig(ffn_config={"ffn_hidden_size": 77}), (24, 2048, 77, 32000)),
        (Qwen3MoeConfig(intermediate_size=100, moe_intermediate_size=30, num_experts_per_tok=8),
         (24, 2048, 240, 151936)),
        (XLNetConfig(), (24, 1024, 4096, 32000)),
        (EncoderDecoderConfig.from_encoder_decoder_configs(
            CONFIG_MAPPING["bert"](num_hidden_layers=2), CONFIG_MAPPING["bert"](hidden_size=96)),
         (14, 768, 3072, 30522)),
        (PreTrainedConfig(), (2, 24, 88, 320)),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_class_else_of_the_weights(
    config: Any, expected: tuple[int, ...]
) -> None:
    assert size_of(config, SHAPES) == ModelSize(11928, *expected)


def test_where_layers_differ_in_size_the_largest_counts() -> None:
    config = Gemma4TextConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, global_head_dim=24,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    )  # fmt: skip
    assert cached_floats(config, 3) == 3 * 2 * 24 * 2


def test_sizes_come_from_a_folder_s_headers_and_config(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, {"a": [50, 10], "b": [500]})
    assert model_size(folder) == ModelSize(1000, 3, 6, 10, 50)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "their_own"}))
    assert model_size(folder) == ModelSize(1000, 3, 6, 10, 50)


def test_the_size_of_a_saved_model_is_that_of_its_weights(tmp_path: Path) -> None:
    config = BartConfig(
        vocab_size=96, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=40, num_labels=1,
    )  # fmt: skip
    model = BartForSequenceClassification(config)
    model.save_pretrained(tmp_path)
    assert model_size(tmp_path) == ModelSize(model.num_parameters(), 3, 16, 40, 96)


def test_planning_imports_transformers_only_where_sizes_are_asked_for() -> None:
    module = "chatllama_pipeline.models.memory.plan"
    code = f"import sys, {module}; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
