"""Pairs and conversations: what is kept, dropped, split, checked and written."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data import CHECK_NAMES
from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.datasets import (
    build_actor_training_data,
    build_rlhf_training_data,
)
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PAIR_SCHEMA, PREFERENCE_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from tests.data.small_tables import (
    PAIRS,
    check,
    messages,
    names,
    own,
    pair,
    prefer,
    settings,
    table,
)


def test_pairs_are_split_and_pass_every_check(tmp_path: Path, personal: Path) -> None:
    rows, outcome, output = prefer(tmp_path, personal, PAIRS)
    assert pq.read_schema(output / "data.parquet").equals(PREFERENCE_SCHEMA)
    assert len(rows) == outcome.rows == 60
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert names(outcome) == CHECK_NAMES["preference_data"]
    # "Yes, gladly." is longer than "No, never." in every pair.
    assert [c.name for c in outcome.checks if not c.passed] == ["length_only_accuracy"]
    assert check(outcome, "length_only_accuracy").value == 1.0


def test_the_order_of_rows_changes_no_byte(tmp_path: Path, personal: Path) -> None:
    shuffled = list(PAIRS)
    random.Random(0).shuffle(shuffled)
    noisy = settings(data={"label_noise": 0.2})
    _, _, first = prefer(tmp_path, personal, PAIRS, noisy, "a")
    _, _, second = prefer(tmp_path, personal, shuffled, noisy, "b")
    assert (first / "data.parquet").read_bytes() == (second / "data.parquet").read_bytes()


def test_adding_rows_moves_and_flips_no_old_one(tmp_path: Path, personal: Path) -> None:
    noisy = settings(data={"label_noise": 0.3})
    few, few_outcome, _ = prefer(tmp_path, personal, PAIRS, noisy, "a")
    more = [*PAIRS, *(pair(f"another matter {number}") for number in range(40))]
    many, _, _ = prefer(tmp_path, personal, more, noisy, "b")
    assert len(many) == 100
    assert all(row in many for row in few)
    flipped = sum(row["chosen"] == "No, never." for row in few)
    assert few_outcome.metrics["flipped_labels"] == flipped
    assert 5 < flipped < 35


def test_identical_and_repeated_pairs_are_dropped_and_counted(
    tmp_path: Path, personal: Path
) -> None:
    same = [pair(f"same {number}", "Alike.", " Alike. ") for number in range(20)]
    rows, outcome, _ = prefer(tmp_path, personal, [*PAIRS, *same, PAIRS[0]])
    assert len(rows) == 60
    assert outcome.metrics["dropped"] == {"duplicate": 1, "identical_replies": 20}
    identical = check(outcome, "identical_pairs")
    # 20 of 81 pairs.
    assert (round(identical.value, 4), identical.limit, identical.passed) == (0.2469, 0.2, False)


def test_a_training_prompt_that_nearly_repeats_a_held_out_one_is_dropped(
    tmp_path: Path, personal: Path
) -> None:
    rows, _, _ = prefer(tmp_path, personal, PAIRS, take="a")
    held_out = [row for row in rows if row["split"] != "train"]
    near = [
        pair(
            f"Number, {row['prompt'][0]['content'].split()[-1]} ... QUESTION!" + "!" * more,
            chosen=f"Sure {more}.",
        )
        for row in held_out
        for more in range(8)
    ]
    again, outcome, _ = prefer(tmp_path, personal, [*PAIRS, *near], take="b")
    trained = {row["prompt"][0]["content"] for row in again if row["split"] == "train"}
    assert not trained & {row["prompt"][0]["content"] for row in near}
    assert outcome.metrics["dropped"]["near_repeat"] > 0.5 * len(near)
    assert check(outcome, "no_split_leak").passed


def test_of_nearly_the_same_pairs_one_stays_and_it_is_held_out_where_one_is(
    tmp_path: Path, personal: Path
) -> None:
    rows, _, _ = prefer(tmp_path, personal, PAIRS, take="a")
    held_out = [row["prompt"][0]["content"] for row in rows if row["split"] != "train"]
    near = [pair(f"{row['prompt'][0]['content']}!?", "YES: gladly", "no - NEVER") for row in PAIRS]
    again, outcome, _ = prefer(tmp_path, personal, [*PAIRS, *near], take="b")
    assert outcome.metrics["dropped"] == {"near_duplicate": 60}
    assert len(again) == 60
    still = {row["prompt"][0]["content"].rstrip("!?") for row in again if row["split"] != "train"}
    assert set(held_out) <= still


def test_a_long_reply_with_a_word_changed_is_nearly_the_same_and_half_of_it_is_not(
    tmp_path: Path, personal: Path
) -> None:
    words = [f"word{one}{other}" for one in "abcdefghij" for other in "abcdefghij"]
    # Of 98 shingles of three words a changed word spoils 3: 95 / 101 = .94 are shared.
    changed = [*words[:50], "other", *words[51:]]
    pairs = [pair("tell me", " ".join(reply)) for reply in (words, changed, words[:50])]
    rows, outcome, _ = prefer(tmp_path, personal, [*PAIRS, *pairs])
    assert outcome.metrics["dropped"] == {"near_duplicate": 1}
    assert len(rows) == 62


def test_number_of_samples_limits_each_source_whatever_the_order(
    tmp_path: Path, personal: Path
) -> None:
    limited = settings(data={"number_of_samples": 10})
    first, _, _ = prefer(tmp_path, personal, PAIRS, limited, "a")
    second, _, _ = prefer(tmp_path, personal, PAIRS[::-1], limited, "b")
    assert first == second
    assert len(first) == 10


def test_own_scores_become_pairs_of_neighbours(tmp_path: Path, personal: Path) -> None:
    own(
        personal,
        "reward",
        [
            {"prompt": messages("Sing!"), "completion": completion, "score": score}
            for completion, score in (
                ("La", 4.0),
                ("Hm", 0.0),
                ("No", 1.5),
                ("?", None),
                ("Na", 1.5),
            )
        ],
    )
    rows, outcome, _ = prefer(tmp_path, personal, [], settings(data={"sources": []}))
    assert sorted((row["chosen"], row["rejected"], row["strength"]) for row in rows) == [
        ("La", "No", 2.5),
        ("Na", "Hm", 1.5),
    ]
    assert {row["source"] for row in rows} == {"personal"}
    assert check(outcome, "not_empty").passed


def test_own_pairs_join_those_of_the_sources(tmp_path: Path, personal: Path) -> None:
    sung = pair("Sing!", "La", "No")
    own(personal, "pairs", [sung, sung, pair("Hum!", "Hm", "Hm ")])
    rows, _, output = prefer(tmp_path, personal, PAIRS)
    assert sum(row["source"] == "personal" for row in rows) == 1
    assert len(rows) == 60 + 1
    funnel = json.loads((output / "funnel.json").read_text())["sources"]["personal"]
    assert funnel == {
        "read": 3,
        "valid": 2,
        "kept": 1,
        "dropped": {"duplicate": 1, "identical_replies": 1},
    }


def test_personal_data_of_sources_and_own_rows_is_redacted_by_a_setting(
    tmp_path: Path, personal: Path
) -> None:
    telling = [pair("I am a@b.org", chosen="Call +49 30 1234567", rejected="Hello c@d.org")]
    own(personal, "pairs", [pair("Sing!", "La to e@f.org", "No")])
    both = settings(data={"redact": ["email", "phone"]})
    rows, outcome, _ = prefer(tmp_path, personal, telling, both, "a")
    assert sorted(
        (row["prompt"][0]["content"], row["chosen"], row["rejected"]) for row in rows
    ) == [
        ("I am <email>", "Call <phone>", "Hello <email>"),
        ("Sing!", "La to <email>", "No"),
    ]
    assert outcome.metrics["redacted"] == {"email": 3, "phone": 1}
    rows, outcome, _ = prefer(tmp_path, personal, telling, settings(), "b")
    assert {row["prompt"][0]["content"] for row in rows} == {"I am a@b.org", "Sing!"}
    assert outcome.metrics["redacted"] == {}


def test_a_pair_of_ones_own_wins_over_the_same_pair_of_a_source(
    tmp_path: Path, personal: Path
) -> None:
    table(personal, [{**PAIRS[0], "source": "personal"}], PAIR_SCHEMA, "pairs")
    rows, _, output = prefer(tmp_path, personal, PAIRS)
    assert len(rows) == 60
    same = [row["source"] for row in rows if row["prompt"] == PAIRS[0]["prompt"]]
    assert same == ["personal"]
    funnel = json.loads((output / "funnel.json").read_text())["sources"]
    assert funnel["grammar"]["dropped"] == {"duplicate": 1}
    assert funnel["personal"] == {"read": 1, "valid": 1, "kept": 1, "dropped": {}}


def test_a_source_without_rows_is_an_error_that_names_the_setting(
    tmp_path: Path, personal: Path
) -> None:
    with pytest.raises(DataError, match=r"data.sources asks for grammar, which holds no rows"):
        prefer(tmp_path, personal, [])
    with pytest.raises(DataError, match=r"asks for shp, which holds no rows; materialize shp"):
        prefer(tmp_path, personal, PAIRS, settings(data={"sources": ["SHP"]}), "b")


def test_no_pairs_pass_without_sources_and_fail_where_pairs_must_train(
    tmp_path: Path, personal: Path
) -> None:
    none = {"sources": []}
    _, outcome, _ = prefer(tmp_path, personal, [], settings(data=none), "a")
    assert [c.name for c in outcome.checks if not c.passed] == []
    pairwise = settings(data=none, reward_config={"objective": "pairwise"})
    _, outcome, _ = prefer(tmp_path, personal, [], pairwise, "b")
    assert [c.name for c in outcome.checks if not c.passed] == ["not_empty"]
    assert "data.sources" in check(outcome, "not_empty").description
    by_dpo = settings(data=none, improve_by="dpo")
    _, outcome, _ = prefer(tmp_path, personal, [], by_dpo, "c")
    assert [c.name for c in outcome.checks if not c.passed] == ["not_empty"]
    assert "or add pairs of your own" in check(outcome, "not_empty").description


def actor(
    tmp_path: Path,
    personal: Path,
    chosen_settings: AssistantSettings,
    synthetic: list[dict[str, Any]] | None = None,
) -> tuple[list[dict[str, Any]], Outcome, Path]:
    _, _, preference = prefer(tmp_path, personal, PAIRS, chosen_settings)
    written = table(tmp_path / "conversations", synthetic or [], TABLES["actor"])
    output = tmp_path / "actor"
    output.mkdir()
    outcome = build_actor_training_data(preference, written, personal, chosen_settings, output)
    return pq.read_table(output / "data.parquet").to_pylist(), outcome, output


def test_the_actor_learns_chosen_replies_or_both(tmp_path: Path, personal: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    rows, _, _ = actor(tmp_path / "x", personal, settings())
    assert {row["completion"] for row in rows} == {"Yes, gladly."}
    assert len(rows) == 60
    rows, _, _ = actor(tmp_path / "y", personal, settings(data={"actor_replies": "both"}))
    assert {row["completion"] for row in rows} == {"Yes, gladly.", "No, never."}
    assert len(rows) == 120


def test_own_and_synthetic_conversations_join_and_exact_repeats_go(
    tmp_path: Path, personal: Path
) -> None:
    hello = {"prompt": messages("Hello"), "completion": "Hi!"}
    own(personal, "actor", [hello, hello, {**hello, "completion": "Hey!"}])
    synthetic = [{"prompt": messages("Bye"), "completion": "Bye!", "source": "synthetic_rules"}]
    rows, outcome, output = actor(tmp_path, personal, settings(), synthetic)
    assert pq.read_schema(output / "data.parquet").equals(ACTOR_SCHEMA)
    assert names(outcome) == CHECK_NAMES["actor_training_data"]
    assert len(rows) == 60 + 2 + 1
    assert outcome.metrics["dropped"] == {"duplicate": 1}
    assert sum(outcome.metrics["rows"].values()) == 63
    few = check(outcome, "enough_rows")
    assert (few.passed, few.blocking, few.value, few.limit) == (False, False, 63, 1000)


def test_no_conversation_at_all_fails_and_says_where_to_put_some(
    tmp_path: Path, personal: Path
) -> None:
    empty = table(tmp_path / "none", [], PREFERENCE_SCHEMA)
    written = table(tmp_path / "conversations", [], TABLES["actor"])
    outcome = build_actor_training_data(empty, written, personal, settings(), tmp_path)
    assert not check(outcome, "not_empty").passed
    assert "datasets/actor_training_data.json" in check(outcome, "not_empty").description
    several = settings(actor_config={"train_dataset_path": ["own/a.jsonl", "own/b/*.csv"]})
    outcome = build_actor_training_data(empty, written, personal, several, tmp_path)
    assert "put rows into own/a.jsonl, own/b/*.csv" in check(outcome, "not_empty").description


def test_a_prompt_held_out_in_one_table_trains_in_no_other(tmp_path: Path, personal: Path) -> None:
    # Each own prompt is held out or not by itself; every near duplicate of a held-out one must go.
    texts = [f"topic {number}" for number in range(40)]
    own(personal, "rlhf", [{"prompt": messages(text)} for text in texts])
    repeats = [{"prompt": messages(f"{text}?"), "completion": "Well."} for text in texts]
    own(personal, "actor", repeats)
    rows, outcome, _ = actor(tmp_path, personal, settings())
    written = table(tmp_path / "prompts", [], TABLES["rlhf"])
    output = tmp_path / "rlhf"
    output.mkdir()
    build_rlhf_training_data(tmp_path / "preference_a", written, personal, settings(), output)
    prompts = pq.read_table(output / "data.parquet").to_pylist()
    held_out = {row["prompt"][0]["content"] for row in prompts if row["split"] != "train"}
    trained = {row["prompt"][0]["content"] for row in rows if row["split"] == "train"}
    assert held_out & set(texts)
    assert not {f"{text}?" for text in held_out} & trained
    assert outcome.metrics["dropped"]["near_repeat"] > 0


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"chosen": " "}, "chosen is empty"),
        ({"prompt": []}, "prompt does not end with a user's turn"),
        ({"prompt": [{"role": "assistant", "content": "x"}]}, "does not end with a user's turn"),
    ],
)
def test_an_unfit_row_fails_the_schema_check(
    tmp_path: Path, personal: Path, change: dict[str, Any], fault: str
) -> None:
    _, outcome, _ = prefer(tmp_path, personal, [{**PAIRS[0], **change}])
    schema = check(outcome, "schema")
    assert (schema.passed, schema.value) == (False, 1)
    assert fault in schema.description
