"""A model's tensors must be numbers, wherever they stand, and the same once saved and loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.probe.tensors import lost, not_finite
from tests.models.test_probe import SIZES, wide
from tests.tiny import QUIET, MakeSpec


def llama() -> Any:
    return wide(LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)))


def opt() -> Any:
    """Of which a relu lets through nothing: the second matrix of a layer is given zeros."""
    model = wide(OPTForCausalLM(OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32)))
    for layer in model.model.decoder.layers:
        layer.fc1.bias.data.fill_(-1e4)
    return model


def mixtral() -> Any:
    return wide(MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=8)))


# Places that a few tokens never come by, or that leave no trace in what is said of them.
PLACES: list[tuple[Callable[[], Any], str]] = [
    (opt, "model.decoder.layers.0.fc2.weight"),
    (opt, "model.decoder.layers.0.fc2.bias"),
    (mixtral, "model.layers.1.mlp.experts.down_proj"),
    (llama, "model.embed_tokens.weight"),  # the head too
    (llama, "model.norm.weight"),
    (llama, "model.layers.1.mlp.up_proj.weight"),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("make", "name"), PLACES, ids=[name for _, name in PLACES])
def test_a_number_that_is_none_is_found_wherever_it_stands(
    make: Callable[[], Any], name: str, dtype: torch.dtype
) -> None:
    model = make().to(dtype)
    numbers = model.get_parameter(name).data.view(-1)
    assert not_finite(model) is None
    for number in (torch.nan, torch.inf, -torch.inf):
        kept = float(numbers[-3])
        numbers[-3] = number
        assert not_finite(model) == not_finite(model, model) == name
        numbers[-3] = kept
    assert not_finite(model) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_large_numbers_are_no_fault_though_their_sum_is_none(dtype: torch.dtype) -> None:
    model = llama().to(dtype)
    weight = model.model.layers[1].mlp.up_proj.weight.data
    weight[:2, :8] = torch.finfo(dtype).max
    assert not_finite(model) is None
    weight[1, 9] = torch.nan
    assert not_finite(model) == "model.layers.1.mlp.up_proj.weight"


def test_a_base_with_an_embedding_that_is_no_number_is_refused_by_its_name(
    tmp_path: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    model = llama()
    model.model.embed_tokens.weight.data[319, 5] = torch.inf
    source = tmp_path / "source"
    model.save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(source)
    spec = make_spec("actor_base", {"actor_config": {"model": str(source)}}, {})
    told = r"actor_config\.model: .* has NaN or infinite numbers in model\.embed_tokens\.weight"
    with pytest.raises(SettingsError, match=told):
        run(spec, QUIET)


def test_a_tensor_that_changed_is_found_in_parameters_and_in_buffers_that_are_never_saved() -> None:
    first, second = (wide(LlamaForCausalLM(LlamaConfig(**SIZES))) for _ in range(2))
    assert list(lost(first, second)) == []
    with torch.no_grad():
        second.model.layers[1].mlp.up_proj.weight[5] *= 1.1
        second.model.rotary_emb.inv_freq[0] = 7.0
    assert list(lost(first, second)) == [
        "model.layers.1.mlp.up_proj.weight", "model.rotary_emb.inv_freq",
    ]  # fmt: skip
    second.model.rotary_emb.inv_freq[0] = torch.nan
    assert not_finite(second) == "model.rotary_emb.inv_freq"
