"""Another way to a better actor, in its place in the graph and before the same gate."""

from __future__ import annotations

import pytest

from tests.pipeline.place import TINY_CONFIG, Place

PAID = {"actor_sft", "reward_model", "rlhf_training_data"}
# Methods that climb a reward try cheats on it, beside the data's good replies.
CLIMBS = {*PAID, "preference_data", "reward_training_data"}
FROM_ROWS = {"actor_sft", "preference_data"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "upstream"),
    [
        ("rloo", CLIMBS),
        ("grpo", CLIMBS),
        ("dpo", FROM_ROWS),
        ("kto", FROM_ROWS),
        ("best_of_n", PAID),
    ],
)
def test_another_method_makes_its_actor_alone_anew_and_the_gate_compares_it(
    copied: Place, method: str, upstream: set[str]
) -> None:
    before = copied.versions("tiny")
    overrides = {"improve_by": method}
    run = copied.materialize("tiny", "*", overrides=overrides, promote=True)
    assert run.returncode == 0, run.stderr
    after = copied.versions("tiny")
    made = {asset for asset in before if after[asset] != before[asset]}
    assert made - {"release"} == {"actor_ppo", "evaluation"}
    actor = copied.store.version("actor_ppo", "tiny", after["actor_ppo"])
    evaluation = copied.store.version("evaluation", "tiny", after["evaluation"])
    assert actor is not None and evaluation is not None
    assert actor.manifest.settings["improve_by"] == method
    assert set(actor.manifest.upstream) == upstream
    assert ("reward_model" in evaluation.manifest.upstream) == (upstream is not FROM_ROWS)
    assert {check.name: check.passed for check in actor.manifest.checks}["finite_loss"]
    assert (evaluation.path / "report.html").stat().st_size > 1000
    assert evaluation.manifest.metrics["kl"] is not None


@pytest.mark.slow
def test_a_reward_model_that_nobody_is_paid_by_is_made_only_by_name(place: Place) -> None:
    place.add_assistant("tiny", f"improve_by: dpo\n{TINY_CONFIG}")
    run = place.materialize("tiny")
    assert run.returncode == 0, run.stderr
    made = place.versions("tiny")
    assert "evaluation" in made and not {"reward_base", "reward_model"} & set(made)
    assert "reward_model: not used here" in run.stderr
    run = place.materialize("tiny", "reward_base,reward_model")
    assert run.returncode == 0, run.stderr
    assert {"reward_base", "reward_model"} <= set(place.versions("tiny"))
