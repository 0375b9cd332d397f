"""Thumbs in people's own files, however they are spelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.settings import AssistantSettings
from tests.data.own_files import ACTOR, REWARD, RLHF, build, errors_of, jsonl, put

SKY = "Why is the sky blue?"
ASKED = {"role": "user", "content": SKY}
BLUE = {"role": "assistant", "content": "Blue light scatters."}
SYSTEM = {"role": "system", "content": "Be brief."}


def read(folder: Path, name: str, rows: list[Any]) -> tuple[Any, list[str]]:
    put(folder, f"{name}.jsonl", jsonl(rows))
    tables, outcome = build(folder)
    return tables, outcome.warnings


@pytest.mark.parametrize(
    "spelled",
    [(True, False), (1, 0), ("True", "False"), (1, -1), ("up", "down"), ("Thumbs_Up", "no"),
     ("\U0001f44d\U0001f3fd", "\U0001f44e")],
)  # fmt: skip
def test_thumbs_become_scores_and_stay_thumbs(folder: Path, spelled: tuple[Any, Any]) -> None:
    rows = [
        {"prompt": SKY, "completion": text, "label": label}
        for text, label in zip(("good", "bad"), spelled, strict=True)
    ]
    tables, [told] = read(folder, REWARD, rows)
    assert [(r["completion"], r["score"]) for r in tables["reward"]] == [("good", 5), ("bad", 0)]
    assert [(r["completion"], r["label"]) for r in tables["thumbs"]] == [
        ("good", True),
        ("bad", False),
    ]
    assert "label true -> a thumb up (score 5), false -> a thumb down (score 0)" in told


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [SYSTEM, ASKED, BLUE], "label": True},
        {"messages": [ASKED, BLUE], "system": "Be brief.", "kto_tag": "true"},
        {
            "conversations": [
                {"from": "human", "value": SKY},
                {"from": "gpt", "value": BLUE["content"]},
            ],
            "system": "Be brief.",
            "kto_tag": True,
        },
    ],
)
def test_thumbs_on_conversations_are_of_the_reply_that_they_end_on(
    folder: Path, row: dict[str, Any]
) -> None:
    tables, _ = read(folder, REWARD, [row])
    [scored], [thumb] = tables["reward"], tables["thumbs"]
    assert scored["prompt"] == thumb["prompt"] == [SYSTEM, ASKED]
    assert scored["completion"] == thumb["completion"] == BLUE["content"]
    assert (scored["score"], thumb["label"]) == (5.0, True)
    (folder / f"{REWARD}.jsonl").unlink()
    tables, _ = read(folder, RLHF, [row])
    assert tables["rlhf"][0]["prompt"] == [SYSTEM, ASKED]
    put(folder, f"{ACTOR}.jsonl", jsonl([row]))
    assert "good replies and bad ones: they belong into reward_config" in errors_of(folder)


def test_a_score_beside_a_label_stays_a_score(folder: Path) -> None:
    rows = [{"messages": [ASKED, BLUE], "label": 1, "score": 3.5}]
    tables, _ = read(folder, REWARD, rows)
    assert tables["reward"][0]["score"] == 3.5 and not tables.get("thumbs")


def test_a_column_of_thumbs_is_named_in_config(folder: Path) -> None:
    columns = {"reward": {"prompt": "question", "completion": "answer", "label": "rating"}}
    settings = AssistantSettings.model_validate({"data": {"columns": columns}})
    put(folder, f"{REWARD}.csv", b"question,answer,rating\nSky?,Yes,up\nSky?,No,down\n")
    tables, _ = build(folder, settings)
    assert [row["label"] for row in tables["thumbs"]] == [True, False]
    put(folder, f"{REWARD}.csv", b"question,answer,rating\nSky?,Yes,perhaps\n")
    assert "its label 'perhaps' is no thumb; write true or false" in errors_of(folder, settings)


def test_bad_replies_are_not_imitated(folder: Path) -> None:
    put(folder, f"{ACTOR}.jsonl", jsonl([{"prompt": SKY, "completion": "x", "label": False}]))
    told = errors_of(folder)
    assert "is of KTO's thumbs, good replies and bad ones: they belong into reward_config" in told
