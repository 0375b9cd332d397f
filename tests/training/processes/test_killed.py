"""Trainings of one process and of several, killed at any moment, and gone on with."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.resume import METHODS, STAGES, Trial, finish, hashes, kill_at_random
from chatllama_pipeline.launch.stages import STOPPED
from chatllama_pipeline.records import Outcome, StageSpec
from tests.tiny import curves
from tests.training.processes.trials import Curves, largest_difference, run, trial_of
from tests.waiting import PATIENCE, wait_until

# Every training: that of actor_ppo by the method that makes it.
TRAININGS = (*(stage for stage in STAGES if stage != "actor_ppo"), *METHODS)


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
