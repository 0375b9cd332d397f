"""Writing through the real client, against the server on loopback."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from chatllama_pipeline.data.splits import split_of
from chatllama_pipeline.errors import DataError, ProviderError
from tests.llm.desk import Desk, row
from tests.llm.loopback.server import KEY, MODEL, prompt_text
from tests.llm.loopback.small_talk import WORDS

EXAMPLES = [row(f"How is {word} tea made?", f"Boil the {word}.") for word in WORDS[:10]]
SETTINGS: dict[str, dict[str, Any]] = {
    "conversations": {"synthetic_conversations": 30},
    "prompts": {"synthetic_prompts": 30},
    "completions": {"synthetic_completions": 30},
}


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_ten_examples_are_enough_and_each_row_says_where_it_is_from(desk: Desk, kind: str) -> None:
    desk.own("actor", EXAMPLES)
    outcome, rows = desk.write(kind, **SETTINGS[kind])
    assert len(rows) == outcome.rows == 30
    for one in rows:
        assert (one["source"], one["model"]) == ("synthetic_openai", f"openai:{MODEL}")
        assert len(one["template"]) == 12
        assert one["way"] and one["examples"]
    assert outcome.metrics["refused"] == {}
    assert 0 < outcome.metrics["prompt_diversity"]["distinct_2"] <= 1
    assert outcome.metrics["llm_calls"] == len(desk.server.seen) > 0
    assert "estimate: about " in desk.said[0]
    if kind == "completions":
        assert Counter(one["quality"] for one in rows) == dict.fromkeys(
            ["excellent", "good", "middling", "poor", "worthless"], 6
        )


@pytest.mark.parametrize("kind", list(SETTINGS))
def test_written_again_nothing_is_paid_and_the_rows_are_the_same(desk: Desk, kind: str) -> None:
    desk.own("actor", EXAMPLES)
    _, first = desk.write(kind, "a", **SETTINGS[kind])
    asked = len(desk.server.seen)
    outcome, second = desk.write(kind, "b", **SETTINGS[kind])
    assert first == second
    assert len(desk.server.seen) == asked
    assert outcome.metrics["llm_calls"] == 0


def test_the_writer_is_shown_no_validation_or_test_prompt(desk: Desk) -> None:
    examples = [row(f"How is {one} with {two} made?") for one in WORDS[:8] for two in WORDS[8:16]]
    desk.own("actor", examples)
    data = desk.settings().data
    held_out = [one for one in examples if split_of(one["prompt"], data) != "train"]
    assert held_out
    desk.write("conversations", synthetic_conversations=60)
    asked = "\n".join(prompt_text(seen.body) for seen in desk.server.seen)
    shown = [one for one in examples if one["prompt"][0]["content"] in asked]
    assert len(shown) > 30
    assert [one for one in shown if one in held_out] == []


def test_good_replies_of_the_users_own_are_examples_where_there_are_no_conversations(
    desk: Desk,
) -> None:
    desk.own("reward", [row("best", "Fine words.", 5), row("worst", "Poor words.", 1)])
    desk.write("conversations", synthetic_conversations=4)
    asked = prompt_text(desk.server.seen[0].body)
    assert "Fine words." in asked
    assert "Poor words." not in asked


def test_a_writer_that_repeats_itself_is_stopped_and_what_it_wrote_is_kept(desk: Desk) -> None:
    rows = [{"user_input": "Where is the harbor?", "completion": "Down the road."}]
    desk.server.behaviour.reply = lambda body: json.dumps({"rows": rows})
    outcome, written = desk.write("conversations", synthetic_conversations=500)
    assert len(written) == 1
    assert len(desk.server.seen) == 16
    assert "stopped at 1 of 500 rows" in outcome.warnings[0]
    assert "like_another 15" in outcome.warnings[0]
    assert outcome.metrics["refused"] == {"like_another": 15}


def test_a_writer_that_refuses_is_told_with_its_words_and_nothing_is_made(desk: Desk) -> None:
    desk.server.behaviour.reply = lambda body: "I'm sorry, I can't help with that."
    with pytest.raises(ProviderError) as refused:
        desk.write("conversations", synthetic_conversations=500)
    told = str(refused.value)
    assert f"synthetic_conversations: openai:{MODEL} wrote nothing that could be used" in told
    assert "refused: unreadable 16" in told
    assert "I'm sorry, I can't help with that." in told


def test_a_template_with_a_fault_is_told_before_anything_is_paid_for(desk: Desk) -> None:
    templates = {"reward": "Rate {completion}"}
    (desk.root / "personal" / "templates.json").write_text(json.dumps(templates))
    desk.own("reward", [row("q")])
    with pytest.raises(DataError, match=r"key reward: the placeholder \{user_input\} is missing"):
        desk.write("prompts", synthetic_prompts=5)
    with pytest.raises(DataError, match=r"key reward: the placeholder \{user_input\} is missing"):
        desk.score("b")
    assert desk.server.seen == []


def test_the_key_stands_in_no_file_that_was_written(desk: Desk) -> None:
    desk.own("actor", EXAMPLES)
    desk.write("prompts", synthetic_prompts=8)
    files = [path for path in desk.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
