"""What people said joins the tables that trainings read, and what is held out stays out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.data.audit import AUDIT_PAGE
from chatllama_pipeline.data.audit.build import AUDIT_FILE, build_data_audit
from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.datasets import (
    build_actor_training_data,
    build_rlhf_training_data,
)
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.data.tables import read_rows
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.schemas import PAIR_SCHEMA
from tests.data.rated import choice, edit, made, thumb
from tests.data.small_tables import pair, settings, table

HELD, TOLD = "feedback", 40
PLAIN = settings(
    data={"actor_replies": "both"}, llm={"provider": "none"}, checks={"min_reward_rows": 0}
)
# As many prompts of the source are asked by people, in nearly the same words.
SOURCE = [pair(f"question number {number}") for number in range(TOLD)]
ASKED = [f"Question, number {number}" for number in range(TOLD)]
# Of every second prompt nothing but a thumb is known.
RATINGS = [
    *(thumb(text, "good", True) for text in ASKED),
    *(choice(text, "left", "right", "left") for text in ASKED[::2]),
    *(edit(text, "bad", "better") for text in ASKED[::2]),
]


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The four tables and their audit, made with what people said."""
    root = tmp_path_factory.mktemp("joined")
    personal, nothing = root / "personal", root / "nothing"
    for name, schema in TABLES.items():
        table(personal, [], schema, name)
    source = table(root / "grammar", SOURCE, PAIR_SCHEMA)
    made(root / HELD, RATINGS, feedback={"test_share": 0.4})
    found = {name: root / name for name in ("preference_data", "data_audit")}
    found |= {f"{name}_training_data": root / name for name in ("actor", "rlhf", "reward")}
    for folder in found.values():
        folder.mkdir()
    pairs = found["preference_data"]
    build_preference_data({"grammar": source}, personal, PLAIN, pairs, root / HELD)
    for builder, name, schema in (
        (build_actor_training_data, "actor", "actor"),
        (build_rlhf_training_data, "rlhf", "rlhf"),
        (build_reward_training_data, "reward", "reward"),
    ):
        written = table(nothing / name, [], TABLES[schema])
        folder = found[f"{name}_training_data"]
        builder(pairs, written, personal, PLAIN, folder, feedback=root / HELD)  # type: ignore[operator]
    tables = {name: path for name, path in found.items() if name != "data_audit"}
    build_data_audit("poet", {**tables, HELD: root / HELD}, PLAIN, found["data_audit"])
    return {**found, HELD: root / HELD}


def said(joined: dict[str, Path], asset: str) -> list[dict[str, Any]]:
    return [row for row in read_rows(joined[asset]) if row["source"] == HELD]


def test_comparisons_edits_thumbs_and_prompts_join_their_tables(joined: dict[str, Path]) -> None:
    pairs = {(row["chosen"], row["rejected"]) for row in said(joined, "preference_data")}
    assert pairs == {("left", "right"), ("better", "bad")}
    # Both sides of a source's pairs are asked for, and yet none that people disliked.
    imitated = {row["completion"] for row in said(joined, "actor_training_data")}
    assert imitated == {"left", "better", "good"}
    assert {row["completion"] for row in read_rows(joined["actor_training_data"])} == {
        *imitated,
        *(SOURCE[0][side] for side in ("chosen", "rejected")),
    }
    assert {row["score"] for row in said(joined, "reward_training_data")} == {5.0}
    assert said(joined, "rlhf_training_data")


def test_a_held_out_prompt_is_trained_on_in_no_table(joined: dict[str, Path]) -> None:
    def number(row: dict[str, Any]) -> str:
        return str(row["prompt"][0]["content"].split()[-1])

    held = {number(row) for row in read_rows(joined[HELD]) if row["split"] != "train"}
    assert {int(each) % 2 for each in held} == {0, 1}
    tables = [name for name in joined if name not in (HELD, "data_audit")]
    for name in tables:
        rows = read_rows(joined[name])
        trained = {number(row) for row in rows if row["split"] == "train"}
        assert trained and not trained & held, name


def test_the_audit_shows_what_was_said_and_no_markup_of_it(joined: dict[str, Path]) -> None:
    page = (joined["data_audit"] / AUDIT_PAGE).read_text()
    assert "What people said of replies" in page and "<code>v1</code>" in page
    figures = json.loads((joined["data_audit"] / AUDIT_FILE).read_text())
    assert figures[HELD]["said"]["v1"] == {
        **{"up": TOLD, "won": TOLD // 2, "edited": TOLD // 2},
        **{"down": 0, "lost": 0, "tied": 0},
    }
    assert figures["funnels"][HELD]["preference"]["read"] == TOLD // 2


def test_scripts_in_ratings_are_text_in_the_audit(tmp_path: Path, joined: dict[str, Path]) -> None:
    evil = "<script>alert(1)</script>"
    made(tmp_path / HELD, [thumb("alpha", evil, True, version=evil, reason=evil)])
    output = tmp_path / "audit"
    output.mkdir()
    tables = {name: path for name, path in joined.items() if name != "data_audit"}
    build_data_audit("poet", {**tables, HELD: tmp_path / HELD}, PLAIN, output)
    page = (output / AUDIT_PAGE).read_text()
    assert "<script" not in page and page.count("&lt;script&gt;alert(1)") == 2
