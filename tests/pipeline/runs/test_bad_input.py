"""What a person gets wrong: told by Dagster's command before anything is trained."""

from __future__ import annotations

import json

import pytest

from tests.pipeline.place import TINY_CONFIG, Place


def refused(place: Place, name: str, select: str = "*", **options: object) -> str:
    run = place.materialize(name, select, **options)
    assert run.returncode != 0
    # A name is refused by the command line before there is a run with a console of ours.
    if "FAILED" in run.stderr:
        assert "Stack Trace" not in run.stderr
        assert "Dependencies for step" not in run.stderr
    assert not (place.root / "guarded_processes").exists(), "a child was started"
    return run.stderr


def test_a_broken_assistant_stops_its_own_run_and_no_other(place: Place) -> None:
    place.add_assistant("good", "data: {sources: [grammar]}")
    place.add_assistant("broken", "actor_config: {lr: fast}")

    assert "broken/config.yaml: actor_config.lr: 'fast'" in refused(place, "broken")
    good = place.materialize("good", "grammar,personal_data,preference_data")
    assert good.returncode == 0, good.stderr


def test_wrong_rows_are_told_by_file_row_and_field(place: Place) -> None:
    folder = place.add_assistant("mine", TINY_CONFIG)
    (folder / "datasets").mkdir()
    rows = [{"user_input": "hello", "completion": "hi", "score": 7}]
    (folder / "datasets" / "reward_training_data.json").write_text(json.dumps(rows))
    message = refused(place, "mine")
    assert "reward_training_data.json" in message
    assert "row 1" in message
    assert "7" in message


def test_ninety_nine_reward_rows_are_too_few(place: Place) -> None:
    folder = place.add_assistant("mine", "reward_config: {objective: scores, model: scratch}")
    (folder / "datasets").mkdir()
    rows = [
        {"user_input": f"question {n}?", "completion": f"answer {n}", "score": n % 6}
        for n in range(99)
    ]
    (folder / "datasets" / "reward_training_data.json").write_text(json.dumps(rows))
    message = refused(
        place,
        "mine",
        "personal_data,preference_data,synthetic_completions,reward_training_data",
    )
    assert "99" in message
    assert "100" in message


def test_an_absent_upstream_says_what_to_make(place: Place) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    message = refused(place, "mine", "actor_ppo")
    assert "actor_ppo needs actor_sft, which was never made for mine" in message


@pytest.mark.parametrize("name", ["../mine", "nobody"])
def test_a_wrong_name_on_the_command_line_is_told(place: Place, name: str) -> None:
    place.add_assistant("mine", TINY_CONFIG)
    message = refused(place, name, "personal_data")
    assert ("those under" if name == "nobody" else "lower-case letters") in message


def test_nothing_half_written_stays_behind(place: Place) -> None:
    folder = place.add_assistant("mine", TINY_CONFIG)
    (folder / "templates.json").write_text("not json")
    refused(place, "mine")
    staging = place.root / "storage" / "_staging"
    assert [path for path in staging.rglob("*") if path.is_file()] == []


def test_a_judge_without_a_key_is_told_before_anything_is_trained(
    copied: Place,
) -> None:
    judge = {"provider": "openai", "model": "m", "price": "free", "api_key_env": "NO_SUCH_KEY"}
    overrides = {"evaluation.judge": judge, "actor_config.max_steps": 41}
    select = "actor_sft,evaluation"

    run = copied.materialize("tiny", select, overrides=overrides)
    assert run.returncode != 0
    assert "FAILED actor_sft" in run.stderr
    assert "evaluation.judge: the environment variable NO_SUCH_KEY holds no key" in run.stderr
    assert "step 1/41" not in run.stderr
