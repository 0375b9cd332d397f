"""Trainings of one process and of several, killed at any moment, and gone on with."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.resume import METHODS, STAGES, Trial, finish, hashes, kill_at_random
from chatllama_pipeline.launch.stages import STOPPED
from chatllama_pipeline.records import Outcome
from tests.tiny import curves
from tests.training.processes.trials import trial_of
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
