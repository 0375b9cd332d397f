"""The thumbs that KTO learns from: split, freed of what contradicts or leaks, of both kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.feedback.rows import SCHEMAS
from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.own.rows import THUMB_SCORES, THUMBS
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA, REWARD_SCHEMA, THUMB_SCHEMA
from tests.data.rated import made
from tests.data.rated import thumb as said
from tests.data.small_tables import PAIRS, check, messages, own, prefer, settings, table

NO_SOURCES = {"sources": []}


def thumb(text: str, reply: str, label: bool) -> dict[str, Any]:
    return {
        "prompt": messages(text), "completion": reply, "label": label, "source": "personal",
    }  # fmt: skip


def own_thumbs(personal: Path, rows: list[dict[str, Any]]) -> None:
    table(personal, rows, THUMBS, "thumbs")


BOTH = [
    thumb(f"matter number {number}", "Gladly." if label else "Never.", label)
    for number in range(30)
    for label in (True, False)
]


def test_own_thumbs_are_split_as_pairs_are_and_stand_beside_them(
    tmp_path: Path, personal: Path
) -> None:
    _, without, plain = prefer(tmp_path, personal, PAIRS, take="plain")
    assert not (plain / "thumbs.parquet").exists() and "thumbs" not in without.metrics
    repeated = [{**row, "prompt": messages(f"matter number {number}")} for number, row in
                enumerate(BOTH[:2])]  # fmt: skip
    own_thumbs(personal, [*BOTH, *repeated[:1], thumb("matter number 3", "Gladly.", False)])
    _, outcome, output = prefer(tmp_path, personal, PAIRS)
    found = pq.read_table(output / "thumbs.parquet")
    assert found.schema.equals(THUMB_SCHEMA)
    rows = found.to_pylist()
    told: Any = outcome.metrics["thumbs"]
    # One thumb twice, and a reply that is found both good and bad: neither thumb stays.
    assert told["dropped"] == {"contradiction": 2, "duplicate": 1}
    assert len(rows) == 59 and sum(told["rows"].values()) == 59
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    sides = {row["prompt"][0]["content"]: row["split"] for row in rows}
    assert all(sides[row["prompt"][0]["content"]] == row["split"] for row in rows)
    assert (output / "data.parquet").read_bytes() == (plain / "data.parquet").read_bytes()
    assert check(outcome, "no_split_leak").passed


def test_thumbs_on_what_was_served_stand_beside_own_ones_on_their_own_sides(
    tmp_path: Path, personal: Path
) -> None:
    feedback = tmp_path / "feedback"
    for file, schema in SCHEMAS.items():
        table(feedback, [], schema, file.removesuffix(".parquet"))
    source = table(tmp_path / "grammar", PAIRS, PAIR_SCHEMA)

    def thumbs(take: str) -> list[dict[str, Any]] | None:
        output = tmp_path / take
        output.mkdir()
        given = ({"grammar": source}, personal, settings(improve_by="kto"), output, feedback)
        build_preference_data(*given)
        file = output / "thumbs.parquet"
        return pq.read_table(file).to_pylist() if file.exists() else None

    assert thumbs("none") is None  # pairs are learned from then
    rated = [
        {**thumb(f"served {number}", "So.", number % 2 == 0), "source": "feedback", "split": split}
        for number, split in enumerate(["train", "train", "test"])
    ]
    table(feedback, rated, SCHEMAS["thumbs.parquet"], "thumbs")
    found = thumbs("served")
    assert found is not None
    assert sorted((row["completion"], row["split"]) for row in found) == [
        ("So.", "test"),
        ("So.", "train"),
        ("So.", "train"),
    ]
    own_thumbs(personal, BOTH)
    both = thumbs("both")
    assert both is not None and {row["source"] for row in both} == {"personal", "feedback"}


def test_thumbs_of_files_are_told_from_scores_where_the_reward_model_learns(
    tmp_path: Path, personal: Path
) -> None:
    """A thumb is which side of the middle a reply is on, and no score: see `score_errors`."""
    plain = settings(llm={"provider": "none"}, checks={"min_reward_rows": 0}, data=NO_SOURCES)
    _, _, pairs = prefer(tmp_path, personal, PAIRS)
    written = table(tmp_path / "written", [], TABLES["actor"])
    rated = tmp_path / "feedback"
    made(rated, [said("rated by people", "good", True)])

    def rewards(take: str, feedback: Path | None) -> tuple[pa.Table, Outcome]:
        output = tmp_path / take
        output.mkdir()
        outcome = build_reward_training_data(
            pairs, written, personal, plain, output, feedback=feedback
        )
        return pq.read_table(output / "data.parquet"), outcome

    scored = [{**messages_of(f"scored {n}"), "score": 5.0 * (n % 2)} for n in range(4)]
    own(personal, "reward", scored)
    without, _ = rewards("scores", rated)
    assert without.schema.equals(REWARD_SCHEMA)
    both = [thumb("matter number 3", "Gladly.", False), *BOTH]
    as_scores = [{**row, "score": THUMB_SCORES[row["label"]]} for row in both]
    own(personal, "reward", [*scored[:2], *as_scores[:5], *scored[2:], *as_scores[5:]])
    own_thumbs(personal, both)
    found, outcome = rewards("thumbs", rated)
    rows = found.to_pylist()
    assert {row["completion"] for row in rows if not row["thumb"]} == {"scored"}
    assert {row["source"] for row in rows if row["thumb"]} == {"personal", "feedback"}
    # Found good by one and bad by another.
    assert ("matter number 3", "Gladly.") not in {
        (row["prompt"][0]["content"], row["completion"]) for row in rows
    }
    dropped: Any = outcome.metrics["dropped"]
    assert dropped["contradiction"] == 2
    kept = [row for row in rows if not row["thumb"] or row["source"] == "feedback"]
    assert [{**row, "thumb": None} for row in kept] == [
        {**row, "thumb": None} for row in without.to_pylist()
    ]


def messages_of(text: str) -> dict[str, Any]:
    return {"prompt": messages(text), "completion": "scored"}


def test_a_thumb_whose_prompt_nearly_repeats_a_held_out_pair_trains_nothing(
    tmp_path: Path, personal: Path
) -> None:
    rows, _, _ = prefer(tmp_path, personal, PAIRS, take="plain")
    near = [
        thumb(f"Question, {row['prompt'][0]['content'].removeprefix('question ')}!?", "Aye.", True)
        for row in rows
        if row["split"] != "train"
    ]
    own_thumbs(personal, [*BOTH, *near])
    _, outcome, output = prefer(tmp_path, personal, PAIRS)
    thumbs = pq.read_table(output / "thumbs.parquet").to_pylist()
    asked = {row["prompt"][0]["content"] for row in thumbs if row["split"] == "train"}
    assert not asked & {row["prompt"][0]["content"] for row in near}
    told: Any = outcome.metrics["thumbs"]
    assert told["dropped"]["near_repeat"] >= 1


def test_kto_needs_thumbs_of_both_kinds_or_pairs(tmp_path: Path, personal: Path) -> None:
    by_kto = settings(data=NO_SOURCES, improve_by="kto")
    _, outcome, _ = prefer(tmp_path, personal, [], by_kto, "a")
    assert [c.name for c in outcome.checks if not c.passed] == ["not_empty"]
    assert "rows of prompt, completion and label" in check(outcome, "not_empty").description
    own_thumbs(personal, BOTH)
    _, outcome, _ = prefer(tmp_path, personal, [], by_kto, "b")
    assert check(outcome, "not_empty").passed
    own_thumbs(personal, [row for row in BOTH if row["label"]])
    with pytest.raises(DataError, match="training thumbs point up: add thumbs of the other kind"):
        prefer(tmp_path, personal, PAIRS, settings(improve_by="kto"), "c")
    prefer(tmp_path, personal, PAIRS, settings(improve_by="dpo"), "d")  # who else minds
