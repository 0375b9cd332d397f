"""Another way to a better actor, in its place in the graph and before the same gate."""

from __future__ import annotations

import pytest

from tests.pipeline.place import Place


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "upstream"),
    [
        ("rloo", {"actor_sft", "reward_model", "rlhf_training_data"}),
        ("grpo", {"actor_sft", "reward_model", "rlhf_training_data"}),
        ("dpo", {"actor_sft", "preference_data"}),
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
    assert {check.name: check.passed for check in actor.manifest.checks}["finite_loss"]
    assert (evaluation.path / "report.html").stat().st_size > 1000
    assert evaluation.manifest.metrics["kl"] is not None
