"""The user's own files: every format and shape, and the paths that name them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chatllama_pipeline.data.own.personal import personal_fingerprint
from chatllama_pipeline.settings import AssistantSettings
from tests.data.own_files import (
    ACTOR,
    REWARD,
    RLHF,
    SCORED,
    SINGING,
    build,
    jsonl,
    paths,
    put,
    put_csv,
    put_parquet,
    user,
)


@pytest.mark.parametrize("ending", [".json", ".json.gz", ".jsonl", ".jsonl.gz", ".csv", ".parquet"])
def test_the_same_rows_in_every_format_make_the_same_table(folder: Path, ending: str) -> None:
    names = ["user_input", "completion", "score"]
    rows = [dict(zip(names, row, strict=True)) for row in SCORED]
    if ending.startswith(".json"):
        content = jsonl(rows) if "jsonl" in ending else json.dumps(rows).encode()
        put(folder, REWARD + ending, content)
    elif ending == ".csv":
        put_csv(folder, REWARD + ending, names, [list(row) for row in SCORED])
    else:
        columns = zip(*SCORED, strict=True)
        put_parquet(folder, REWARD + ending, dict(zip(names, map(list, columns), strict=True)))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    tables, _ = build(folder)
    assert tables["reward"] == [
        {"prompt": user(prompt), "completion": reply, "score": score, "source": "personal"}
        for prompt, reply, score in SCORED
    ]
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_byte_order_mark_and_carriage_returns_do_no_harm(folder: Path) -> None:
    put(
        folder,
        f"{RLHF}.jsonl",
        b'\xef\xbb\xbf{"user_input": "Sing!"}\r\n\r\n{"user_input": "Hum!"}',
    )
    put(folder, f"{ACTOR}.csv", b'\xef\xbb\xbfuser_input,completion\r\n"Two\nlines, yes",La\r\n')
    tables, _ = build(folder)
    assert [row["prompt"] for row in tables["rlhf"]] == [user("Sing!"), user("Hum!")]
    assert tables["actor"][0]["prompt"] == user("Two\nlines, yes")


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_every_assistant_turn_of_a_conversation_is_a_row_with_the_turns_before_it(
    folder: Path, ending: str
) -> None:
    if ending == ".jsonl":
        put(folder, ACTOR + ending, jsonl([{"messages": SINGING}]))
    else:
        put_parquet(folder, ACTOR + ending, {"messages": [SINGING]})
    tables, _ = build(folder)
    assert [(row["prompt"], row["completion"]) for row in tables["actor"]] == [
        (SINGING[:2], "La"),
        (SINGING[:4], "Lala"),
    ]


def test_a_scored_conversation_scores_its_last_turn_and_a_prompt_ends_on_the_user(
    folder: Path,
) -> None:
    put(folder, f"{REWARD}.jsonl", jsonl([{"messages": SINGING, "score": 2}]))
    put(folder, f"{RLHF}.jsonl", jsonl([{"messages": SINGING[:4]}, {"prompt": SINGING[:2]}]))
    tables, _ = build(folder)
    assert [(len(r["prompt"]), r["completion"], r["score"]) for r in tables["reward"]] == [
        (4, "Lala", 2.0)
    ]
    assert [row["prompt"] for row in tables["rlhf"]] == [SINGING[:4], SINGING[:2]]


def test_pairs_stand_among_the_rewards_with_a_text_or_turns_as_their_prompt(folder: Path) -> None:
    turns = SINGING[:2]
    reply = [{"role": "assistant", "content": "La"}]
    put(
        folder,
        f"{REWARD}.jsonl",
        jsonl(
            [
                {"prompt": "Sing!", "chosen": "La", "rejected": "No"},
                {"prompt": turns, "chosen": reply, "rejected": "No"},
                {"prompt": turns, "chosen": [*turns, *reply], "rejected": "No"},
                {"user_input": "Sing!", "completion": "La", "score": 5},
            ]
        ),
    )
    put_csv(folder, f"{REWARD}.csv", ["prompt", "chosen", "rejected"], [["Hum!", "Hm", "No"]])
    put_parquet(
        folder, f"{REWARD}.parquet", {"prompt": [turns], "chosen": ["Lo"], "rejected": ["No"]}
    )
    tables, _ = build(folder)
    shared = {"rejected": "No", "strength": 1.0, "source": "personal", "domain": ""}
    assert tables["pairs"] == [
        {"prompt": prompt, "chosen": chosen, **shared}
        for prompt, chosen in (
            (user("Hum!"), "Hm"),
            (user("Sing!"), "La"),
            (turns, "La"),
            (turns, "La"),
            (turns, "Lo"),
        )
    ]
    assert len(tables["reward"]) == 1


def test_an_own_pair_whose_replies_are_the_same_is_told_and_left_to_be_dropped(
    folder: Path,
) -> None:
    pairs = [{"prompt": "Sing!", "chosen": "La", "rejected": text} for text in ("No", " La ", "La")]
    put(folder, f"{REWARD}.jsonl", jsonl(pairs))
    tables, outcome = build(folder)
    assert len(tables["pairs"]) == 3
    [warning] = outcome.warnings
    assert warning.startswith(f"{REWARD}.jsonl, row 2: chosen and rejected are the same text")
    assert "2 such pairs" in warning


def test_globs_folders_and_lists_name_several_files_and_the_fingerprint_counts_each(
    folder: Path,
) -> None:
    for name in ("datasets/a/2.jsonl", "datasets/a/1.jsonl", "datasets/b/x/3.jsonl", "own/4.jsonl"):
        put(folder, name, jsonl([{"user_input": name}]))
    put(folder, "datasets/a/.hidden.jsonl", b"not json")
    put(folder, "datasets/a/notes.txt", b"not json")
    ours = paths(rlhf=["datasets/a/*.jsonl", "datasets/**/3.jsonl", "own", "own/4.jsonl"])
    tables, outcome = build(folder, ours)
    wanted = ["datasets/a/1.jsonl", "datasets/a/2.jsonl", "datasets/b/x/3.jsonl", "own/4.jsonl"]
    assert [row["prompt"][0]["content"] for row in tables["rlhf"]] == wanted
    assert outcome.metrics["files"] == 4
    first = personal_fingerprint(folder, ours)
    assert sorted(first) == [f"rlhf: {name}" for name in wanted]
    put(folder, "datasets/a/2.jsonl", jsonl([{"user_input": "changed"}]))
    second = personal_fingerprint(folder, ours)
    assert {key for key in first if first[key] != second[key]} == {"rlhf: datasets/a/2.jsonl"}
    assert personal_fingerprint(folder, paths(actor="own")) != personal_fingerprint(
        folder, paths(rlhf="own")
    )


def test_the_default_path_stands_for_every_ending_and_for_a_folder_of_that_name(
    folder: Path,
) -> None:
    put(folder, f"{RLHF}.json", b'[{"user_input": "one"}]')
    put(folder, f"{RLHF}.jsonl", jsonl([{"user_input": "two"}]))
    put(folder, f"{RLHF}/part.jsonl.gz", jsonl([{"user_input": "three"}]))
    tables, _ = build(folder)
    assert [row["prompt"] for row in tables["rlhf"]] == [user("one"), user("two"), user("three")]


def test_own_rows_are_redacted_by_a_setting_before_anything_reads_them(folder: Path) -> None:
    file = put(
        folder, f"{ACTOR}.jsonl", jsonl([{"user_input": "a@b.org", "completion": "b@c.org"}])
    )
    redacting = AssistantSettings.model_validate({"data": {"redact": True}})
    tables, outcome = build(folder, redacting)
    [row] = tables["actor"]
    assert (row["prompt"], row["completion"]) == (user("<email>"), "<email>")
    assert outcome.metrics["redacted"] == {"email": 2}
    assert b"a@b.org" in file.read_bytes()
