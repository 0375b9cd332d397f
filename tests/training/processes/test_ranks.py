"""Real trainings in two processes, by DDP and by DeepSpeed, against one process; real kills.

Each runs as a child process of its own, as the launcher starts it, but for those of one process
that others are compared with: this process has imported all that they need.
"""

from __future__ import annotations

import importlib
import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.resume import (
    FROM_ROWS,
    METHODS,
    STAGES,
    Trial,
    finish,
    hashes,
    kill_at_random,
    make_inputs,
)
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.launch import STAGES as STAGES_OF
from chatllama_pipeline.launch import TRAININGS as TRAININGS_OF
from chatllama_pipeline.launch.stages import STOPPED, stage_error
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.ppo.stage import HEAD_FILE
from tests.waiting import PATIENCE, wait_until

STEPS = 20
# Every training: that of actor_ppo by the method that makes it.
TRAININGS = (*(stage for stage in STAGES if stage != "actor_ppo"), *METHODS)
Curves = dict[str, list[float]]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


def trial_of(training: str, processes: int = 1, zero_stage: int = 0, steps: int = STEPS) -> Trial:
    if training in METHODS:
        return Trial("actor_ppo", processes, zero_stage, steps, training)
    return Trial(training, processes, zero_stage, steps)


def run(
    trial: Trial, inputs: Path, folder: Path, change: Callable[[StageSpec], None] | None = None
) -> tuple[StageSpec, Outcome]:
    spec = trial.spec(inputs, folder)
    if change is not None:
        change(spec)
        spec.write(folder / "spec.json")
    finish(trial.start(folder), folder)
    return spec, Outcome.read(Path(spec.result))


def run_here(trial: Trial, inputs: Path, folder: Path) -> Outcome:
    """The same in this process, by one process without DeepSpeed."""
    spec = trial.spec(inputs, folder)
    training = AssistantSettings.of_stage(spec).trained_as(spec.stage)
    module, function = {**STAGES_OF, **TRAININGS_OF}[training].split(":")
    stage: Callable[[StageSpec, Progress], Outcome] = getattr(
        importlib.import_module(module), function
    )
    return stage(spec, Progress(trial.stage, lambda line: None))


def curves(outcome: Outcome) -> Curves:
    return {curve.name: [value for _, value in curve.points] for curve in outcome.curves}


@pytest.fixture(scope="session")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Curves]:
    """The curves of a training by one process without DeepSpeed, made once."""
    made: dict[str, Curves] = {}

    def of(training: str) -> Curves:
        if training not in made:
            folder = tmp_path_factory.mktemp(f"{training}_alone")
            made[training] = curves(run_here(trial_of(training), inputs, folder))
        return made[training]

    return of


def largest_difference(found: list[float], expected: list[float]) -> float:
    assert len(found) == len(expected)
    return max(abs(a - b) for a, b in zip(found, expected, strict=True))


def test_two_processes_under_deepspeed_lose_what_one_process_loses(
    inputs: Path, tmp_path: Path
) -> None:
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


def test_the_kl_of_kto_is_that_of_the_whole_step_in_two_processes_too(
    inputs: Path, tmp_path: Path, alone: Callable[[str], Curves]
) -> None:
    _, outcome = run(trial_of("kto", 2), inputs, tmp_path)
    found, expected = curves(outcome), alone("kto")
    assert len(found["loss"]) == STEPS
    for name in ("loss", "validation_loss", "validation_kl"):
        assert largest_difference(found[name], expected[name]) < 1e-3, name
    assert found["validation_kl"][-1] > 0.1  # else a rank's own KL would do


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
@pytest.mark.parametrize("adapters", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize(
    ("method", "zero_stage", "trunk"),
    [
        *(("ppo", zero_stage, "own") for zero_stage in range(4)),
        *(("ppo", zero_stage, "shared") for zero_stage in (0, 2, 3)),
        *(("rloo", 0, "own"), ("rloo", 2, "own"), ("grpo", 3, "own")),
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
    own, head = (Path(spec.output) / "critic" / file for file in ("config.json", HEAD_FILE))
    assert own.is_file() == (method == "ppo" and trunk == "own")
    assert head.is_file() == (trunk == "shared")


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


@pytest.mark.slow
def test_the_originals_ds_config_trains_with_one_warning(inputs: Path, tmp_path: Path) -> None:
    original = {
        "train_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "optimizer": {"type": "Adam", "params": {"lr": 0.00015}},
        "fp16": {"enabled": False},
        "zero_optimization": {
            "stage": 2,
            "offload_param": {"device": "cpu", "pin_memory": True},
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        },
    }
    (tmp_path / "ds_config.json").write_text(json.dumps(original))

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


@pytest.mark.slow
@pytest.mark.parametrize("training", TRAININGS)
@pytest.mark.parametrize(("processes", "zero_stage"), [(1, 0), (2, 0), (2, 2), (2, 3)])
def test_a_training_killed_three_times_ends_in_the_same_bytes(
    inputs: Path, tmp_path: Path, training: str, processes: int, zero_stage: int
) -> None:
    trial = trial_of(training, processes, zero_stage, steps=240)
    report = kill_at_random(trial, inputs, tmp_path, kills=3)
    assert report.kills >= 3
    assert report.continued >= 1
    assert report.differing == []


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_another_number_of_processes_continues_and_says_that_it_is_not_exact(
    inputs: Path, tmp_path: Path, zero_stage: int
) -> None:
    two = Trial("actor_sft", 2, zero_stage, steps=2000)
    spec = two.spec(inputs, tmp_path)
    process = two.start(tmp_path)
    wait_until(lambda: any(Path(spec.run_folder).glob("state/*.json")))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) != 0
    assert "error: stopped by " in (tmp_path / "log").read_text()

    one = replace(two, processes=1)
    finish(one.start(tmp_path), tmp_path)
    outcome = Outcome.read(Path(spec.result))
    assert len(outcome.warnings) == 1
    assert "saved by 2 processes" in outcome.warnings[0]
    assert "sums are rounded in another order" in outcome.warnings[0]
    losses = curves(outcome)["loss"]
    assert losses[-1] < losses[0] - 0.5


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
    def saves(spec: StageSpec) -> None:
        for section in ("actor_config", "reward_config", "trainer_config"):
            spec.settings[section] |= {"n_checkpoints_to_keep": 9, "checkpoint_seconds": 3600}

    spec, _ = run(trial_of(training, *before), inputs, tmp_path, saves)
    forget_all_but_the_first_state(Path(spec.run_folder))
    shutil.rmtree(spec.output)
    Path(spec.output).mkdir()

    trial = trial_of(training, *after)
    for section in ("actor_config", "reward_config"):
        spec.settings[section]["zero_stage"] = trial.zero_stage
    spec.write(tmp_path / "spec.json")
    finish(trial.start(tmp_path), tmp_path)
    assert "continues " in (tmp_path / "log").read_text()
    found, expected = curves(Outcome.read(Path(spec.result))), alone(training)
    for name in ("score", "kl", "policy_loss") if training == "ppo" else ("loss",):
        assert largest_difference(found[name], expected[name]) < 1e-3, name


def forget_all_but_the_first_state(run_folder: Path) -> None:
    """As if the training had been killed behind it."""
    first, *others = sorted(run_folder.glob("state/*.json"))
    assert others, f"{first} is the last one, too"
    for manifest in others:
        manifest.unlink()
        shutil.rmtree(manifest.with_suffix(""))


def test_a_training_that_got_sigterm_leaves_with_a_code_of_its_own(
    inputs: Path, tmp_path: Path
) -> None:
    trial = Trial("actor_sft", steps=3000)
    trial.spec(inputs, tmp_path)
    process = trial.start(tmp_path)
    log = tmp_path / "log"
    wait_until(lambda: "actor_sft: step" in log.read_text(), log.read_text)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == STOPPED
    assert "stopped by SIGTERM after step" in log.read_text()
    assert any((tmp_path / "run" / "state").glob("*.json"))
    assert not hashes(tmp_path / "output")
