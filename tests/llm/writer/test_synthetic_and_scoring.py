"""Synthetic rows, and the scored replies that the reward model learns from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data import CHECK_NAMES
from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.data.sources.catalog import build_source
from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.llm.synthetic import build_synthetic
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import AssistantSettings

RULES = {
    "provider": "rules",
    "synthetic_conversations": 30,
    "synthetic_prompts": 20,
    "synthetic_completions": 150,
    "scored_pairs": 40,
}
KINDS = ["conversations", "prompts", "completions"]


def settings(**sections: Any) -> AssistantSettings:
    return AssistantSettings.model_validate(sections)


def empty(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def table(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema, name: str = "data") -> Path:
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), empty(folder) / f"{name}.parquet")
    return folder


@pytest.fixture
def personal(tmp_path: Path) -> Path:
    for name, schema in TABLES.items():
        table(tmp_path / "personal", [], schema, name)
    return tmp_path / "personal"


def own_rows(personal: Path, scores: list[float | None], text: str = "prompt") -> None:
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{text} {number}"}],
            "completion": "Well.",
            "score": score,
            "source": "personal",
        }
        for number, score in enumerate(scores)
    ]
    table(personal, rows, TABLES["reward"], "reward")


def no_pairs(tmp_path: Path) -> Path:
    return table(tmp_path / "pairs", [], PREFERENCE_SCHEMA)


def check(outcome: Outcome, name: str) -> Check:
    (found,) = (check for check in outcome.checks if check.name == name)
    return found


@pytest.mark.parametrize(
    ("kind", "count"), [("conversations", 30), ("prompts", 20), ("completions", 150)]
)
def test_the_rules_write_as_many_rows_as_asked_and_twice_the_same_bytes(
    kind: str, count: int, tmp_path: Path, personal: Path
) -> None:
    outputs = [empty(tmp_path / take) for take in "ab"]
    for output in outputs:
        assert (
            build_synthetic(f"synthetic_{kind}", personal, settings(llm=RULES), output).rows
            == count
        )
    first, second = ((output / "data.parquet").read_bytes() for output in outputs)
    assert first == second
    rows = pq.read_table(outputs[0] / "data.parquet").to_pylist()
    assert {row["source"] for row in rows} == {"synthetic_rules"}
    columns = ["prompt", "source"] if kind == "prompts" else ["prompt", "completion", "source"]
    assert list(rows[0]) == columns
    reseeded = empty(tmp_path / "c")
    build_synthetic(f"synthetic_{kind}", personal, settings(llm=RULES, seed=1), reseeded)
    assert (reseeded / "data.parquet").read_bytes() != first


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_provider_there_are_no_rows_and_the_table_is_valid(
    kind: str, tmp_path: Path, personal: Path
) -> None:
    outcome = build_synthetic(f"synthetic_{kind}", personal, settings(), empty(tmp_path / "out"))
    assert outcome.rows == pq.read_table(tmp_path / "out" / "data.parquet").num_rows == 0
    assert outcome.warnings == []


def test_templates_that_the_rules_ignore_are_told(tmp_path: Path, personal: Path) -> None:
    (personal / "templates.json").write_text('{"actor": "Talk about ships."}')
    outcome = build_synthetic(
        "synthetic_conversations", personal, settings(llm=RULES), empty(tmp_path / "out")
    )
    assert outcome.warnings == [
        "templates.json: 'actor' has no effect, rules writes from its grammar"
    ]


def test_scores_that_stand_are_kept_zero_included(tmp_path: Path, personal: Path) -> None:
    own_rows(personal, [0.0, 5.0, 2.5])
    completions = table(tmp_path / "completions", [], TABLES["actor"])
    output = empty(tmp_path / "out")
    build_reward_training_data(no_pairs(tmp_path), completions, personal, settings(), output)
    data = pq.read_table(output / "data.parquet")
    assert data.schema.equals(REWARD_SCHEMA)
    assert sorted(data["score"].to_pylist()) == [0.0, 2.5, 5.0]
    listed = json.loads((output / "reward_training_data.json").read_text())
    assert {"user_input": "prompt 0", "completion": "Well.", "score": 0.0} in listed


def test_99_rows_fail_and_say_the_cure_100_pass(tmp_path: Path, personal: Path) -> None:
    completions = table(tmp_path / "completions", [], TABLES["actor"])
    own_rows(personal, [3.0] * 99 + [None] * 7)
    first = build_reward_training_data(
        no_pairs(tmp_path), completions, personal, settings(), empty(tmp_path / "a")
    )
    enough = check(first, "enough_rows")
    assert (enough.passed, enough.blocking, enough.value, enough.limit) == (False, True, 99, 100)
    for told in (
        "99 scored rows, and 100 are needed",
        "datasets/reward_training_data.json",
        "llm.synthetic_completions",
        "reward_config.objective to pairwise",
        "7 rows without a score were set aside",
    ):
        assert told in enough.description
    assert first.metrics["dropped"]["unscored"] == 7
    own_rows(personal, [3.0] * 100)
    second = build_reward_training_data(
        no_pairs(tmp_path), completions, personal, settings(), empty(tmp_path / "b")
    )
    assert check(second, "enough_rows").passed


def test_an_assistant_that_learns_from_pairs_alone_needs_no_scores(
    tmp_path: Path, personal: Path
) -> None:
    completions = table(tmp_path / "completions", [], TABLES["actor"])
    pairwise = settings(reward_config={"objective": "pairwise"})
    outcome = build_reward_training_data(
        no_pairs(tmp_path), completions, personal, pairwise, empty(tmp_path / "out")
    )
    assert outcome.rows == 0
    assert check(outcome, "enough_rows").passed
    assert "pairwise, which needs none" in check(outcome, "enough_rows").description
    assert check(outcome, "judge_agreement").passed
    assert check(outcome, "judge_agreement").description.startswith("not measured")


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1.0, 1.0), (0.5, 0.3, 0.7)])
def test_the_judge_scores_completions_and_pairs_and_its_agreement_is_measured(
    tmp_path: Path, personal: Path, noise: float, low: float, high: float
) -> None:
    chosen = settings(
        llm=RULES, data={"sources": ["grammar"], "number_of_samples": 200, "label_noise": noise}
    )
    build_source("grammar", empty(tmp_path / "grammar"))
    preference, completions = empty(tmp_path / "preference"), empty(tmp_path / "completions")
    build_preference_data({"grammar": tmp_path / "grammar"}, personal, chosen, preference)
    build_synthetic("synthetic_completions", personal, chosen, completions)
    output = empty(tmp_path / "out")

    outcome = build_reward_training_data(preference, completions, personal, chosen, output)

    rows = pq.read_table(output / "data.parquet").to_pylist()
    assert len(rows) == outcome.rows == 150 + 2 * 40
    assert {row["split"] for row in rows if row["source"] == "grammar"} == {"train"}
    assert {row["score"] for row in rows} == {0.0, 1.0, 2.0, 3.0, 4.0, 5.0}
    assert [(c.name, c.blocking) for c in outcome.checks] == CHECK_NAMES["reward_training_data"]
    agreement = check(outcome, "judge_agreement")
    assert low <= agreement.value <= high
    assert agreement.passed == (agreement.value >= 0.6)
    assert outcome.metrics["judged_rows"] == 230


def test_own_rows_outside_of_the_grammar_are_refused_by_the_rules(
    tmp_path: Path, personal: Path
) -> None:
    own_rows(personal, [None], text="Sing me a song")
    completions = table(tmp_path / "completions", [], TABLES["actor"])
    with pytest.raises(ProviderError, match=r"rules only knows the grammar.*'Sing me a song 0'"):
        build_reward_training_data(
            no_pairs(tmp_path), completions, personal, settings(llm=RULES), empty(tmp_path / "out")
        )
