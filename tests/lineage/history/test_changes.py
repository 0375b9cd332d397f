"""What differs between two versions."""

from __future__ import annotations

import dataclasses

from chatllama_pipeline.lineage.history.changes import Change, brief, changes, summary
from tests.lineage.conftest import Make, gate


def test_a_change_of_each_kind_is_told_once(make: Make) -> None:
    before = make(
        "evaluation",
        "one",
        {"actor_ppo": "aa"},
        settings={"seed": 0, "evaluation.prompts": 200},
        metrics={"win_rate": 0.5, "dropped": {"empty": 1}},
        checks=[gate(False)],
        rows=10,
    )
    after = make(
        "evaluation",
        "two",
        {"actor_ppo": "bb"},
        settings={"seed": 1, "evaluation.prompts": 200},
        metrics={"win_rate": 0.75, "dropped": {"empty": 1, "too_long": 2}},
        checks=[gate(True)],
        rows=12,
    )
    assert changes(before.manifest, after.manifest) == [
        Change("upstream", "actor_ppo", "aa", "bb"),
        Change("settings", "seed", 0, 1),
        Change("inputs", "text", "one", "two"),
        Change("data", "dropped.too_long", None, 2),
        Change("data", "rows", 10, 12),
        Change("figures", "win_rate", 0.5, 0.75),
        Change("checks", "release_gate", "failed", "passed"),
    ]


def test_times_machines_money_and_rounding_are_no_changes(make: Make) -> None:
    first = {"train_seconds": 1.0, "peak_gib": 0.1, "llm_usd": 1.0, "loss": 0.12345678}
    second = {"train_seconds": 2.0, "peak_gib": 0.2, "llm_usd": 0.0, "loss": 0.12345679}
    made = make("actor_sft", "same", metrics=first).manifest
    assert changes(made, dataclasses.replace(made, metrics=second)) == []
    assert changes(made, dataclasses.replace(made, metrics={**second, "loss": 0.1235})) != []


def test_long_values_and_long_lists_are_cut_and_counted() -> None:
    assert brief("a" * 30) == '"' + "a" * 19 + " ..."
    found = [Change("settings", f"key_{n}", n, n + 1) for n in range(8)]
    assert summary(found, most=2) == "key_0 0 -> 1; key_1 1 -> 2; and 6 more"
