"""Templates: placeholders are checked, and filled where they stand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.llm.templates import (
    DEFAULTS,
    PLACEHOLDERS,
    Template,
    load_templates,
    template_faults,
)


def written(folder: Path, **templates: str) -> Path:
    (folder / "templates.json").write_text(json.dumps(templates))
    return folder


def test_without_a_file_the_templates_are_ours_and_have_no_faults(tmp_path: Path) -> None:
    found = load_templates(tmp_path)
    assert set(found) == set(PLACEHOLDERS) == {"actor", "reward", "rlhf"}
    assert {key: template.text for key, template in found.items()} == DEFAULTS
    assert [template.own for template in found.values()] == [False] * 3
    for word in ("text quality", "content quality", "coherence", "0", "5"):
        assert word in found["reward"].text


def test_the_users_templates_win_over_ours_key_by_key(tmp_path: Path) -> None:
    found = load_templates(written(tmp_path, actor="We sell tea."))
    assert (found["actor"].text, found["actor"].own) == ("We sell tea.", True)
    assert (found["rlhf"].text, found["rlhf"].own) == (DEFAULTS["rlhf"], False)
    assert found["actor"].hash != Template("actor", "We sell coffee.", True).hash


def test_every_fault_is_told_with_its_key_and_cure(tmp_path: Path) -> None:
    folder = written(
        tmp_path, reward="Score {user_inputs}: {completion}", rlhf="Like {example}", actor="{a} {b}"
    )
    with pytest.raises(DataError) as refused:
        load_templates(folder)
    assert str(refused.value).splitlines() == [
        "templates.json, key reward: unknown placeholder {user_inputs}; did you mean {user_input}? "
        "There are: {user_input}, {completion}. Write {{user_inputs}} where braces are meant",
        "templates.json, key reward: the placeholder {user_input} is missing; write it where that "
        "text shall stand, or take the other out too: then both are appended",
        "templates.json, key rlhf: unknown placeholder {example}; did you mean {examples}? "
        "There are: {examples}. Write {{example}} where braces are meant",
        "templates.json, key actor: unknown placeholder {a}; There are: {examples}. "
        "Write {{a}} where braces are meant",
        "templates.json, key actor: unknown placeholder {b}; There are: {examples}. "
        "Write {{b}} where braces are meant",
    ]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("reward", "Just score it."),
        ("reward", "{completion} answers {user_input}. Again: {completion}"),
        ("actor", "No placeholder."),
        ("actor", "Like these: {examples}"),
        ("rlhf", 'Say {"a": {"b": 1}}, {}, { examples }, {{name}} and {1}.'),
    ],
)
def test_what_is_no_fault(key: str, text: str) -> None:
    assert template_faults(key, text) == []


def test_a_reward_template_without_placeholders_gets_both_appended() -> None:
    filled = Template("reward", "Score it.\n").fill({"user_input": "IN", "completion": "OUT"})
    assert filled == "Score it.\n\nThe user's input:\nIN\n\nThe reply:\nOUT"


def test_placeholders_are_filled_where_they_stand_and_doubled_braces_are_literal() -> None:
    template = Template("reward", 'JSON {"a": 1}, {{user_input}}: {completion} <- {user_input}')
    sections = {"user_input": "{completion}", "completion": "{user_input} {x} {{y}} {"}
    assert template.fill(sections) == (
        'JSON {"a": 1}, {user_input}: {user_input} {x} {{y}} { <- {completion}'
    )
    assert template.spoken == 'JSON {"a": 1}, {user_input}: (the reply) <- (the user\'s input)'


def test_examples_are_appended_unless_there_are_none() -> None:
    assert Template("rlhf", "Ask.").fill({"examples": "E"}) == "Ask.\n\nExamples:\nE"
    assert Template("rlhf", "Ask.").fill({"examples": ""}) == "Ask."
    assert Template("rlhf", "Ask {examples}!").fill({}) == "Ask !"
