"""What the quickstart reaches, on three seeds: the real run, two minutes each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.place import REPOSITORY, Place

SEEDS = (0, 1, 2)
CONFIG = (REPOSITORY / "assistants" / "quickstart" / "config.yaml").read_text()


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("quickstart"))
    place.add_assistant("quickstart", CONFIG)
    return place


def figures_of(place: Place, **overrides: Any) -> dict[str, Any]:
    run = place.by_command("quickstart", overrides=overrides, promote=True)
    assert run.returncode == 0, run.stderr
    folder: Path = place.store.read("evaluation", "quickstart").path
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["both", "pairwise"])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_assistant_gets_better(quickstart: Place, seed: int, objective: str) -> None:
    found = figures_of(quickstart, seed=seed, **{"reward_config.objective": objective})
    before, after = found["actor_sft"], found["actor_ppo"]

    assert found["reward_model_pairs"] >= 400
    assert found["reward_model_accuracy"] >= 0.85
    assert found["sft_validation_loss"] <= 0.45
    assert 0.40 <= before["rubric_score"] <= 0.60
    assert after["rubric_score"] >= max(0.75, before["rubric_score"] + 0.20)
    assert found["win_rate_low"] > 0.5
    assert found["kl"] < 5
    assert after["share_finished"] >= 0.95
    assert after["names_item"] >= before["names_item"] + 0.15
    assert found["released"], found["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_labels_that_say_nothing_are_held_back(quickstart: Place, seed: int) -> None:
    overrides = {"reward_config.objective": "pairwise", "data.label_noise": 0.5}
    found = figures_of(quickstart, seed=seed, **overrides)
    assert not found["released"]
    # By chance such a reward may point where the judge looks; that is no reason to follow it.
    assert "which a coin may be too" in found["reason"]


@pytest.mark.slow
def test_labels_that_say_nothing_are_caught_before_half_of_the_iterations(
    quickstart: Place,
) -> None:
    figures_of(quickstart, **{"reward_config.objective": "pairwise", "data.label_noise": 0.5})
    manifest = quickstart.store.read("actor_ppo", "quickstart").manifest
    [check] = [check for check in manifest.checks if check.name == "reward_hacking"]
    assert not check.passed, check.description
    assert manifest.metrics["iterations"] <= 12  # of 25
