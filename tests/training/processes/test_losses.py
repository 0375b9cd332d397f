"""Real trainings in two processes, by DDP and by DeepSpeed, lose what one process loses.

Each runs as a child process of its own, but for those of one process that others are compared with:
this process has imported all that they need.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

from benchmarks.resume import FROM_ROWS, STAGES, Trial
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from chatllama_pipeline.training.distributed import require_deepspeed
from tests.settings.test_deepspeed_config import ORIGINAL
from tests.tiny import curves
from tests.training.processes.trials import (
    STEPS,
    Curves,
    largest_difference,
    run,
    run_here,
    trial_of,
)


def test_two_processes_under_deepspeed_lose_what_one_process_loses(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "builds"))
    # 21 rows by 8 make short last batches; of their micro-batches of 2 the ranks have 2 and 1.
    trial = Trial("actor_sft", 2, zero_stage=3, steps=6)
    spec, outcome = run(trial, inputs, tmp_path / "two")
    alone = run_here(replace(trial, processes=1, zero_stage=0), inputs, tmp_path / "one")
    losses = curves(outcome)["loss"]
    assert len(losses) == trial.steps
    assert largest_difference(losses, curves(alone)["loss"]) < 1e-3
    assert losses[-1] < losses[0] - 0.5
    assert load_actor(spec.output, torch.float32).num_parameters() > 0
    assert outcome.warnings == []
    assert not any((tmp_path / "builds").glob("*")), "something was compiled first"


def test_the_kl_of_kto_is_that_of_the_whole_step_in_two_processes_too(
    inputs: Path, tmp_path: Path, alone: Callable[[str], Curves]
) -> None:
    _, outcome = run(trial_of("kto", 2), inputs, tmp_path)
    found, expected = curves(outcome), alone("kto")
    assert len(found["loss"]) == STEPS
    for name in ("loss", "validation_loss", "validation_kl"):
        assert largest_difference(found[name], expected[name]) < 1e-3, name
    assert found["validation_kl"][-1] > 0.1  # else a rank's own KL would do


def test_an_accelerate_that_does_without_deepspeed_is_told() -> None:
    accelerator = Accelerator(cpu=True)
    require_deepspeed(accelerator, Means())
    sharded = Means(deepspeed=DeepSpeedPlan({"zero_optimization": {"stage": 2}}))
    with pytest.raises(SettingsError, match=r"zero_stage 2 asks for DeepSpeed.*ACCELERATE_USE_CPU"):
        require_deepspeed(accelerator, sharded)


@pytest.mark.slow
@pytest.mark.parametrize("training", ["reward_model", "actor_sft", *FROM_ROWS, "best_of_n"])
@pytest.mark.parametrize(
    ("processes", "zero_stage", "offload"),
    [(2, 0, "none"), (2, 1, "none"), (2, 2, "optimizer"), (2, 3, "none"), (2, 3, "all"),
     (1, 3, "none")],
)  # fmt: skip
def test_losses_are_those_of_one_process_at_every_stage(
    inputs: Path,
    tmp_path: Path,
    alone: Callable[[str], Curves],
    training: str,
    processes: int,
    zero_stage: int,
    offload: str,
) -> None:
    def offloaded(spec: StageSpec) -> None:
        for section in ("actor_config", "reward_config"):
            spec.settings[section]["offload"] = offload

    trial = trial_of(training, processes, zero_stage)
    spec, outcome = run(trial, inputs, tmp_path, offloaded)
    found, expected = curves(outcome), alone(training)
    assert len(found["loss"]) == STEPS
    for name in expected:
        if name == "loss" or name.startswith("validation_"):
            assert largest_difference(found[name], expected[name]) < 1e-3, name
    load = load_reward if training == "reward_model" else load_actor
    assert load(spec.output, torch.float32).num_parameters() > 0


@pytest.mark.slow
@pytest.mark.parametrize("training", ["reward_model", *FROM_ROWS])
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_an_adapter_learns_from_rows_what_it_learns_in_one_process(
    inputs: Path, tmp_path: Path, training: str, zero_stage: int
) -> None:
    def adapted(spec: StageSpec) -> None:
        for section in ("actor_config", "reward_config"):
            # What is dropped out differs from process to process.
            spec.settings[section] |= {"peft_enable": True, "lora": {"lora_dropout": 0}}

    _, one = run(trial_of(training), inputs, tmp_path / "one", adapted)
    spec, two = run(trial_of(training, 2, zero_stage), inputs, tmp_path / "two", adapted)
    found, expected = curves(two), curves(one)
    for name in ("loss", *(name for name in expected if name.startswith("validation_"))):
        assert largest_difference(found[name], expected[name]) < 1e-3, name
    assert (Path(spec.output) / "adapter_model.safetensors").is_file()


@pytest.mark.slow
def test_the_originals_ds_config_trains_with_one_warning(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "ds_config.json").write_text(json.dumps(ORIGINAL))

    def by_file(spec: StageSpec) -> None:
        spec.settings["actor_config"] |= {
            "zero_stage": 0,
            "deepspeed_enable": True,
            "deepspeed_config_path": str(tmp_path / "ds_config.json"),
        }

    _, outcome = run(Trial("actor_sft", 2, steps=STEPS), inputs, tmp_path / "run", by_file)
    losses = curves(outcome)["loss"]
    assert losses[-1] < losses[0] - 0.5
    assert len(outcome.warnings) == 1
    for said in ("0.00015 (actor_config.lr 0.003)", "offload_param", "gradient_accumulation"):
        assert said in outcome.warnings[0]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_bfloat16_trains_under_deepspeed(inputs: Path, tmp_path: Path, stage: str) -> None:
    def in_bfloat16(spec: StageSpec) -> None:
        for section in ("actor_config", "reward_config", "trainer_config"):
            spec.settings[section]["precision"] = "bfloat16"

    _, outcome = run(Trial(stage, 2, zero_stage=3, steps=STEPS), inputs, tmp_path, in_bfloat16)
    assert all(check.passed for check in outcome.checks)
    found = curves(outcome)
    assert found["kl"][0] == 0.0 if stage == "actor_ppo" else found["loss"][-1] < found["loss"][0]
