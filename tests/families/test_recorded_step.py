"""A step recorded over keys and values of a fixed size says what the general way says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from chatllama_pipeline.models.families import recorded
from chatllama_pipeline.models.families.cached import Cached
from chatllama_pipeline.models.families.recorded import Recorded, can_record, same
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.training.ppo.rollout import pad_left
from tests.families import every

COLUMNS = 12
PROMPTS = [[5, 9, 31], [40, 41, 42, 43, 44], [7], [50, 51]]
PLAIN = ("llama", "opt", "gpt_neox", "gpt2", "qwen3", "phi", "gemma")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    def load(family: str) -> Any:
        folder = tmp_path_factory.mktemp("recorded")
        return load_actor(every.make(family, folder / family), torch.float32)

    return load


def not_recorded(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """In the place of a CUDA graph: the step itself, over the same fixed inputs."""
    return step


@torch.inference_mode()
def said(growing: Cached) -> list[Tensor]:
    """What a decoding says of given tokens; two of the four rows leave, one after the other."""
    tokens = torch.randint(
        4, 60, (COLUMNS, len(PROMPTS)), generator=torch.Generator().manual_seed(0)
    )
    active, found = torch.arange(len(PROMPTS)), []
    for column in range(COLUMNS):
        found.append(growing.next_logits().clone())
        growing.append(tokens[column, active])
        if column in (2, 8):
            kept = torch.arange(len(active)) != 1
            growing.keep(kept.nonzero()[:, 0])
            active = active[kept]
    return found


def both(
    model: Any, record: Callable[..., Any] = not_recorded
) -> tuple[Recorded, list[Tensor], list[Tensor]]:
    ids, mask = pad_left(PROMPTS, 1)
    growing = Recorded(model, ids, mask, COLUMNS, record=record)
    return growing, said(growing), said(Cached(model, ids, mask, COLUMNS))


@pytest.mark.parametrize("family", PLAIN)
def test_it_says_what_the_general_way_says(model: Callable[[str], Any], family: str) -> None:
    growing, found, expected = both(model(family))
    assert growing.is_recorded
    for left, right in zip(found, expected, strict=True):
        assert torch.allclose(left, right, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_under_autocast_it_says_so_too_but_for_rounding(
    model: Callable[[str], Any], family: str
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        growing, found, expected = both(model(family))
    assert growing.is_recorded
    assert {layer.keys.dtype for layer in growing._fixed.cache.layers} == {torch.bfloat16}
    assert all(same(left, right) for left, right in zip(found, expected, strict=True))


def test_weights_are_cast_ahead_only_where_memory_has_room_for_them(
    model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    llama = model("llama")
    with torch.autocast("cpu", torch.bfloat16):
        roomy, found, _ = both(llama)
        monkeypatch.setattr(recorded, "free_bytes", lambda device: 1000)
        tight, alike, _ = both(llama)
    names = {name.removesuffix(".weight") for name in roomy._fixed.weights}
    assert "lm_head" in names
    assert "model.layers.0.self_attn.q_proj" in names
    assert not names & {"model.embed_tokens", "model.norm"}
    assert tight.is_recorded
    assert tight._fixed.weights == {}
    assert all(torch.equal(left, right) for left, right in zip(found, alike, strict=True))


@pytest.mark.parametrize("family", ["gemma2", "mistral"])
def test_where_keys_slide_out_of_a_window_the_general_way_goes_on(
    model: Callable[[str], Any], family: str
) -> None:
    growing, found, expected = both(model(family))
    assert not growing.is_recorded
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_where_a_step_cannot_be_recorded_the_general_way_goes_on(
    model: Callable[[str], Any],
) -> None:
    growing, found, expected = both(model("llama"), record=lambda step: None)
    assert not growing.is_recorded
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_a_step_that_says_something_else_is_not_taken(
    model: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def shifted(cache: Any, *arguments: Any) -> Any:
        fixed = made(cache, *arguments)
        for layer in fixed.layers:
            layer.keys.copy_(layer.keys.roll(1, dims=2))
        return fixed

    made = recorded._fixed_cache
    monkeypatch.setattr(recorded, "_fixed_cache", shifted)
    growing, found, expected = both(model("llama"))
    assert not growing.is_recorded
    assert all(torch.equal(left, right) for left, right in zip(found, expected, strict=True))


def test_on_a_cpu_nothing_is_recorded(model: Callable[[str], Any]) -> None:
    assert not can_record(model("llama"))
