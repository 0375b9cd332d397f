"""What trainings really keep and reach, beside what the plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.memory.stages import RAGGED_STEPS, USED, Bench, make_inputs
from chatllama_pipeline.models.adapters.lora import add_adapter
from chatllama_pipeline.models.heads import load_actor, pad_right
from chatllama_pipeline.models.memory.passes import layer_floats
from chatllama_pipeline.models.memory.sizes import model_size
from chatllama_pipeline.settings import AssistantSettings
from tests.models.memory.plans import plan_of

pytestmark = pytest.mark.usefixtures("allocator")
KINDS: list[tuple[bool, dict[str, Any]]] = [
    (False, {}),
    (True, {"target_modules": ["q_proj", "v_proj"]}),
    (True, {"target_modules": "all-linear"}),
    (True, {"target_modules": "all-linear", "lora_dropout": 0}),
    (True, {"target_modules": r"model\.layers\.\d+\.mlp\..*_proj"}),
]


@pytest.mark.parametrize(("adapted", "lora"), KINDS)
def test_a_step_on_ragged_rows_keeps_what_the_plan_counts(
    tiny_base_folder: Path, adapted: bool, lora: dict[str, Any]
) -> None:
    settings = AssistantSettings.model_validate(
        {"actor_config": {"batch_size": 8, "peft_enable": adapted, "lora": lora}}
    )
    model = load_actor(tiny_base_folder, torch.float32)
    if adapted:
        add_adapter(model, settings.actor_config.lora, "actor_config", tiny_base_folder, 0)
    lengths = [6, 9, 13, 20, 28, 37, 50, 64]
    ids, mask = pad_right([[5] * length for length in lengths], 0)
    kept: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = model.train().base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    assert found.last_hidden_state.requires_grad
    plan = plan_of("actor_sft", {"actor": tiny_base_folder}, settings, max(lengths))
    size = model_size(tiny_base_folder)
    passing = ids.numel() * layer_floats(size.hidden, size.intermediate) * 4
    planned = plan.phases["training"]["actor activations"] - passing
    assert 0.85 < planned / sum(kept.values()) < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("adapted", [False, True])
def test_each_stage_s_plan_is_within_a_quarter_of_its_measured_peak(
    tmp_path: Path, adapted: bool, ragged: bool
) -> None:
    make_inputs(tmp_path, "small", length=256, rows=8, ragged=ragged)
    bench = Bench(tmp_path, 256, 8, adapted, steps=RAGGED_STEPS if ragged else 2)
    for stage in USED:
        found = bench.run(stage).metrics
        assert 0.85 < found["planned_gib"] / found["peak_gib"] < 1.25, (stage, found)
