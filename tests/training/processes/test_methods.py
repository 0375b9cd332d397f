"""PPO, RLOO and GRPO in two processes roll out, are paid and learn as in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.resume import Trial
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.launch.stages import stage_error
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.training.ppo.stage import HEAD_FILE
from tests.tiny import curves
from tests.training.processes.trials import STEPS, largest_difference, run, trial_of


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize(
    ("method", "zero_stage", "trunk"),
    [
        *(("ppo", zero_stage, "own") for zero_stage in range(4)),
        *(("ppo", zero_stage, "shared") for zero_stage in (0, 2, 3)),
        *(("rloo", zero_stage, "own") for zero_stage in range(4)),
        *(("grpo", zero_stage, "own") for zero_stage in range(1, 4)),
    ],
)
def test_a_method_rolls_out_and_learns_what_one_process_does(
    inputs: Path,
    tmp_path: Path,
    method: str,
    zero_stage: int,
    trunk: str,
    adapters: bool,
) -> None:
    def adapted(spec: StageSpec) -> None:
        spec.settings["critic_config"] = {"trunk": trunk}
        for section in ("actor_config", "trainer_config"):
            spec.settings[section]["peft_enable"] = adapters
        spec.settings["trainer_config"]["beta_s"] = 0.01

    _, one = run(trial_of(method), inputs, tmp_path / "one", adapted)
    spec, two = run(trial_of(method, 2, zero_stage), inputs, tmp_path / "two", adapted)
    expected, found = curves(one), curves(two)
    assert len(found["score"]) == STEPS // 4
    assert found["reply_tokens"] == expected["reply_tokens"]
    of_a_critic = ["value_loss"] if method == "ppo" else []
    for name in ("score", "kl", "policy_loss", *of_a_critic, "gradient_norm", "update_kl"):
        assert largest_difference(found[name], expected[name]) < 1e-3, name
    samples = [(Path(s) / "output" / "samples.jsonl").read_text() for s in (tmp_path / "one",)]
    assert len(samples[0].splitlines()) == len(
        (Path(spec.output) / "samples.jsonl").read_text().splitlines()
    )
    counts = max(Path(spec.run_folder).glob("state/*/counts.json"))
    layout = json.loads(counts.read_text())["layout"]
    assert (layout["processes"], layout["zero_stage"]) == (2, zero_stage or None)
    # What DeepSpeed's engine itself has written: each process's part of the moments.
    parts = sorted(counts.parent.glob("deepspeed/state/*optim_states.pt"))
    assert len(parts) == (2 if zero_stage else 0)
    for part in parts:
        held = torch.load(part, weights_only=False)["optimizer_state_dict"]
        assert held["zero_stage"] == zero_stage
    own, head = (Path(spec.output) / "critic" / file for file in ("config.json", HEAD_FILE))
    assert own.is_file() == (method == "ppo" and trunk == "own")
    assert head.is_file() == (trunk == "shared")


@pytest.mark.slow
def test_two_processes_are_paid_by_functions_and_a_judge_as_one_is(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    file = tmp_path / "rewards.py"
    file.write_text("def brief(prompt, reply):\n    return -len(reply)\n")

    def paid(spec: StageSpec) -> None:
        spec.settings.update(
            rewards={
                "weights": {"reward_model": 1, "brief": 0.5, "judge": 0.5},
                "trust_code": True,
                "file": str(file),
            },
            llm={"judge": {"provider": "rubric"}},
            rubric=[{"name": "a", "says": "a"}],
            evaluation={"judge": "none"},
        )

    one, two = (
        curves(run(Trial("actor_ppo", n, steps=8), inputs, tmp_path / str(n), paid)[1])
        for n in (1, 2)
    )
    for name in ("score", "reward/brief", "raw_reward/judge", "reward/reward_model"):
        assert largest_difference(two[name], one[name]) < 1e-3, name

    def breaks_in_the_second(spec: StageSpec) -> None:
        paid(spec)
        file.write_text("import os\ndef brief(p, r):\n    return 1 / (os.environ['RANK'] != '1')\n")

    folder = tmp_path / "broken"
    with pytest.raises(RuntimeError):
        run(Trial("actor_ppo", 2, steps=8), inputs, folder, breaks_in_the_second)
    told = stage_error(folder / "result.json")
    assert isinstance(told, DataError) and "ZeroDivisionError" in str(told)


@pytest.mark.slow
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_processes_see_and_publish_what_one_does(
    inputs: Path, tmp_path: Path, zero_stage: int, adapters: bool
) -> None:
    def watched(spec: StageSpec) -> None:
        spec.settings["trainer_config"] |= {"watch_every": 1, "kl_beta": 0.0, "actor_lr": 0.01}
        for section in ("actor_config", "trainer_config"):
            spec.settings[section]["peft_enable"] = adapters

    spec, one = run(Trial("actor_ppo", steps=12), inputs, tmp_path / "one", watched)
    trial = Trial("actor_ppo", 2, zero_stage, steps=12)
    other, two = run(trial, inputs, tmp_path / "two", watched)
    expected, found = curves(one), curves(two)
    assert len(found["watched_judge"]) == 4
    for name in ("watched_judge", "watched_reward", "watched_kl", "watched_reply_tokens"):
        assert largest_difference(found[name], expected[name]) < 1e-3, name
    assert two.metrics["published_iteration"] == one.metrics["published_iteration"]
    published, alone = (load_actor(job.output, torch.float32).state_dict() for job in (other, spec))
    for name, weight in alone.items():
        torch.testing.assert_close(published[name], weight, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_a_policy_that_moved_too_far_ends_the_update_under_deepspeed_too(
    inputs: Path, tmp_path: Path
) -> None:
    def strict(spec: StageSpec) -> None:
        spec.settings["trainer_config"]["update_kl_limit"] = 1e-9

    _, outcome = run(Trial("actor_ppo", 2, zero_stage=2, steps=4), inputs, tmp_path, strict)
    # Two epochs of two minibatches; the second sees the first one's step.
    assert curves(outcome)["optimizer_steps"] == [1.0]
    assert outcome.metrics["optimizer_steps_skipped"] == 0
