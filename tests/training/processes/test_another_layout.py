"""Trainings that another number of processes or ZeRO stage goes on with, beside those of one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.resume import finish
from chatllama_pipeline.records import Outcome, StageSpec
from tests.tiny import curves
from tests.training.processes.trials import Curves, largest_difference, run, trial_of


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "before", "after"),
    [
        ("actor_sft", (2, 3), (1, 0)),
        ("actor_sft", (2, 2), (1, 0)),
        ("actor_sft", (1, 0), (2, 3)),
        ("actor_sft", (1, 0), (2, 1)),
        ("actor_sft", (2, 3), (1, 3)),
        ("actor_sft", (2, 3), (4, 3)),
        ("actor_sft", (2, 2), (4, 1)),
        ("actor_sft", (2, 1), (2, 3)),
        ("reward_model", (2, 3), (1, 2)),
        ("ppo", (2, 3), (1, 0)),
        ("ppo", (1, 0), (2, 3)),
    ],
)
def test_a_training_goes_on_in_another_layout_as_if_it_had_begun_in_it(
    inputs: Path,
    tmp_path: Path,
    alone: Callable[[str], Curves],
    training: str,
    before: tuple[int, int],
    after: tuple[int, int],
) -> None:
    found, _ = gone_on_in_another_layout(inputs, tmp_path, training, before, after, {})
    expected = alone(training)
    for name in ("score", "kl", "policy_loss") if training == "ppo" else ("loss",):
        assert largest_difference(found[name], expected[name]) < 1e-3, name


ADAPTED = {"peft_enable": True, "lora": {"lora_dropout": 0}}
NARROW = {"precision": "bfloat16"}
# DeepSpeed has an optimizer of its own for bfloat16 at stage 1 that sums in float32.
SUMS_IN_FLOAT32 = {"data_types": {"grad_accum_dtype": "fp32"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "before", "after", "asked", "least"),
    [
        ("actor_sft", (2, 3), (1, 0), ADAPTED, 1e-3),
        ("reward_model", (1, 0), (2, 2), ADAPTED, 1e-3),
        ("actor_sft", (2, 2), (2, 2), ADAPTED, 1e-6),
        ("ppo", (2, 1), (1, 3), ADAPTED, 1e-3),
        ("ppo", (2, 3), (2, 2), {"trunk": "shared"}, 1e-3),
        ("actor_sft", (2, 3), (2, 0), {"offload": "all"}, 1e-3),
        ("actor_sft", (1, 0), (2, 3), {"offload": "all"}, 1e-3),
        ("actor_sft", (2, 1), (2, 3), NARROW, 0.02),
        ("reward_model", (2, 3), (1, 2), NARROW, 0.02),
        ("actor_sft", (2, 2), (1, 0), NARROW, 0.05),
        ("ppo", (2, 2), (1, 3), NARROW, 0.05),
        ("actor_sft", (2, 1), (1, 1), {**NARROW, "file": SUMS_IN_FLOAT32}, 0.02),
    ],
)
def test_what_else_is_trained_goes_on_in_another_layout_as_in_its_own(
    inputs: Path,
    tmp_path: Path,
    training: str,
    before: tuple[int, int],
    after: tuple[int, int],
    asked: dict[str, Any],
    least: float,
) -> None:
    found, expected = gone_on_in_another_layout(inputs, tmp_path, training, before, after, asked)
    for name in ("score", "kl") if training == "ppo" else ("loss",):
        assert largest_difference(found[name], expected[name]) < least, name


def gone_on_in_another_layout(
    inputs: Path,
    folder: Path,
    training: str,
    before: tuple[int, int],
    after: tuple[int, int],
    asked: dict[str, Any],
) -> tuple[Curves, Curves]:
    """The curves of a training that went on in layout `after`, and those of its own layout.

    A layout is a number of processes and a ZeRO stage; `asked` is what the models are trained with.
    """
    options = dict(asked)
    trunk, by_file = options.pop("trunk", "own"), options.pop("file", None)

    def in_layout(zero_stage: int) -> Callable[[StageSpec], None]:
        def change(spec: StageSpec) -> None:
            spec.settings["critic_config"] = {"trunk": trunk}
            of_states = {"n_checkpoints_to_keep": 9, "checkpoint_seconds": 3600}
            spec.settings["trainer_config"] |= of_states | {
                key: value for key, value in options.items() if key in ("peft_enable", "precision")
            }
            for section in ("actor_config", "reward_config"):
                spec.settings[section] |= of_states | options | {"zero_stage": zero_stage}
                if not zero_stage:
                    spec.settings[section].pop("offload", None)
                if by_file is not None:
                    file = folder / f"by_stage_{zero_stage}.json"
                    zero = {"zero_optimization": {"stage": zero_stage}}
                    file.write_text(json.dumps(by_file | zero))
                    by = {"deepspeed_enable": True, "deepspeed_config_path": str(file)}
                    spec.settings[section] |= {"zero_stage": 0, **by}

        return change

    spec, outcome = run(trial_of(training, *before), inputs, folder / "it", in_layout(before[1]))
    forget_all_but_the_first_state(Path(spec.run_folder))
    shutil.rmtree(spec.output)
    Path(spec.output).mkdir()

    in_layout(after[1])(spec)
    spec.write(folder / "it" / "spec.json")
    finish(trial_of(training, *after).start(folder / "it"), folder / "it")
    assert "continues " in (folder / "it" / "log").read_text()
    return curves(Outcome.read(Path(spec.result))), curves(outcome)


def forget_all_but_the_first_state(run_folder: Path) -> None:
    """As if the training had been killed behind it."""
    first, *others = sorted(run_folder.glob("state/*.json"))
    assert others, f"{first} is the last one, too"
    for manifest in others:
        manifest.unlink()
        shutil.rmtree(manifest.with_suffix(""))
