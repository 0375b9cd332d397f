"""The lean decoding step against the models' own, on two-layer models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from chatllama_pipeline.models.adapters.lora import add_adapter
from chatllama_pipeline.models.families import decoding as families
from chatllama_pipeline.models.families import lean
from chatllama_pipeline.models.families.decoding import decoding
from chatllama_pipeline.settings import LoraSettings

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 64,
    # Wide weights make the logits depend on what is read.
    "initializer_range": 0.3,
}
STEPS, ROWS = 9, 5
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
MODELS: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "llama 3, tied": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES | {"num_key_value_heads": 2, "tie_word_embeddings": True},
                    rope_parameters=LLAMA3)
    ),
    "llama with biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    ),
    "mistral": lambda: MistralForCausalLM(
        MistralConfig(**SIZES | {"num_key_value_heads": 2}, head_dim=16, sliding_window=None)
    ),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SIZES | {"num_key_value_heads": 1})),
}  # fmt: skip


def made(name: str) -> Any:
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            parameter.data.normal_(1.0, 0.2)
    return model


def prompts(*, padded: bool) -> tuple[Tensor, Tensor]:
    ids = torch.randint(1, 40, (ROWS, 7), generator=torch.Generator().manual_seed(1))
    starts = torch.tensor([0, 3, 6, 1, 0] if padded else [0] * ROWS)
    return ids, torch.arange(7) >= starts[:, None]


@torch.inference_mode()
def decoded(model: Any, *, padded: bool) -> tuple[str, list[Tensor]]:
    """What decodes, and the logits of every step; rows leave before the first and amid the rest."""
    growing = decoding(model, *prompts(padded=padded), STEPS)
    draws = torch.Generator().manual_seed(2)
    seen = []
    for step in range(STEPS):
        seen.append(growing.next_logits())
        rows = len(seen[-1])
        if step in (0, 4):
            rows -= 1
            growing.keep(torch.arange(rows) + (step == 0))
        growing.append(torch.randint(1, 40, (rows,), generator=draws))
    return type(growing).__name__, seen


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_its_logits_are_the_models_own_to_the_bit(
    name: str, padded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(name)
    kind, found = decoded(model, padded=padded)
    monkeypatch.setattr(families, "fits", lambda model: False)
    other, expected = decoded(model, padded=padded)
    assert (kind, other) == ("Lean", "Cached")
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def hooked(model: Any) -> Any:
    model.model.layers[1].mlp.register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def adapted(model: Any) -> Any:
    add_adapter(model, LoraSettings(), "actor_config", "base", seed=0)
    return model


OTHERS: dict[str, Callable[[], Any]] = {
    "another family": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64)
    ),
    "an adapter": lambda: adapted(made("llama")),
    "a hook": lambda: hooked(made("llama")),
    "half precision": lambda: made("llama").bfloat16(),
    "a sliding window": lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)),
    "some layers that slide": lambda: Qwen2ForCausalLM(
        Qwen2Config(**SIZES, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "angles that follow the length": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SIZES,
            rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
        )
    ),
    "eager attention": lambda: LlamaForCausalLM._from_config(
        LlamaConfig(**SIZES), attn_implementation="eager"
    ),
    "noise": lambda: made("llama").train(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_model_that_computes_otherwise_goes_its_own_way(other: str) -> None:
    model = OTHERS[other]()
    assert not lean.fits(model if other == "noise" else model.eval())


def test_products_in_another_type_go_the_models_own_way() -> None:
    model = made("llama")
    assert lean.fits(model)
    with torch.autocast("cpu", torch.bfloat16):
        assert not lean.fits(model)


def test_a_large_model_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made("llama")
    packed = sum(
        part.weight.nbytes
        for layer in model.model.layers
        for part in layer.modules()
        if isinstance(part, torch.nn.Linear)
    )
    monkeypatch.setattr(lean, "SMALL_BYTES", packed)
    assert lean.fits(model)
    monkeypatch.setattr(lean, "SMALL_BYTES", packed - 1)
    assert not lean.fits(model)
