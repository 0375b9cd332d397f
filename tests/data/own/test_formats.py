"""Rows as other programs write them: recognised by their fields, told in a line, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.sources.hh_rlhf import convert
from chatllama_pipeline.settings import AssistantSettings
from tests.data.own_files import ACTOR, REWARD, RLHF, build, errors_of, jsonl, put, user

SKY = "Why is the sky blue?"
ASKED = {"role": "user", "content": SKY}
BLUE = {"role": "assistant", "content": "Blue light scatters."}
RED = {"role": "assistant", "content": "Magic."}
SYSTEM = {"role": "system", "content": "Be brief."}
TREE = {
    "message_tree_id": "t",
    "prompt": {
        "text": SKY,
        "role": "prompter",
        "replies": [
            {"text": "Magic.", "role": "assistant", "rank": 1, "replies": []},
            {
                "text": "Blue light scatters.",
                "role": "assistant",
                "rank": 0,
                "replies": [{"text": "Thanks!", "role": "prompter", "replies": []}],
            },
        ],
    },
}


def read(folder: Path, name: str, rows: list[Any], settings: Any = None) -> tuple[Any, list[str]]:
    put(folder, f"{name}.jsonl", jsonl(rows))
    tables, outcome = build(folder, settings)
    return tables, outcome.warnings


def sharegpt(*values: str) -> list[dict[str, str]]:
    names = ("human", "gpt") * len(values)
    return [{"from": name, "value": value} for name, value in zip(names, values, strict=False)]


@pytest.mark.parametrize(
    ("row", "prompt", "reply", "format_name"),
    [
        ({"instruction": SKY, "input": "", "output": "Yes"}, user(SKY), "Yes", "Alpaca"),
        (
            {"instruction": "Translate", "input": "Hund", "output": "dog", "text": "all of it"},
            user("Translate\n\nHund"),
            "dog",
            "Alpaca",
        ),
        (
            {"instruction": "More", "output": "b", "history": [["Hi", "a"]], "system": "Be brief."},
            [SYSTEM, *user("Hi"), {"role": "assistant", "content": "a"}, *user("More")],
            "b",
            "Alpaca",
        ),
        (
            {"instruction": "Sum up", "context": "A text", "response": "Text", "category": "x"},
            user("Sum up\n\nA text"),
            "Text",
            "Dolly",
        ),
        ({"conversations": sharegpt(SKY, "Yes"), "id": "7"}, user(SKY), "Yes", "ShareGPT"),
        ({"messages": sharegpt(SKY, "Yes")}, user(SKY), "Yes", ""),
        ({"conversations": [ASKED, BLUE]}, user(SKY), BLUE["content"], "ShareGPT"),
        (
            {"system_prompt": "Be brief.", "question": SKY, "response": "Yes"},
            [SYSTEM, ASKED],
            "Yes",
            "OpenOrca",
        ),
        (
            {"id": "seed_task_0", "instruction": SKY, "instances": [{"input": "", "output": "Y"}]},
            user(SKY),
            "Y",
            "Self-Instruct's seed tasks",
        ),
        ({"messages": [ASKED, BLUE], "system": "Be brief."}, [SYSTEM, ASKED], BLUE["content"], ""),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": SKY}]}, BLUE]},
            user(SKY),
            BLUE["content"],
            "",
        ),
        (TREE, user(SKY), BLUE["content"], "OASST's trees, as conversations"),
        (
            {"prompt": SKY, "prompt_id": "1", "chosen": [ASKED, BLUE], "rejected": [ASKED, RED]}
            | {"messages": [ASKED, BLUE], "score_chosen": 8.0, "score_rejected": 2.0},
            user(SKY),
            BLUE["content"],
            "",
        ),
    ],
)
def test_replies_to_imitate_are_read_from_every_format(
    folder: Path, row: Any, prompt: Any, reply: str, format_name: str
) -> None:
    tables, warnings = read(folder, ACTOR, [row])
    assert [(r["prompt"], r["completion"]) for r in tables["actor"]] == [(prompt, reply)]
    assert len(warnings) == bool(format_name)
    if format_name:
        assert warnings[0].startswith(f"{ACTOR}.jsonl: read as {format_name}: ")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": SKY, "chosen": [ASKED, BLUE], "rejected": [ASKED, RED]},
        {"prompt": SKY, "prompt_id": "1", "chosen": [ASKED, BLUE], "rejected": [ASKED, RED]}
        | {"messages": [ASKED, BLUE], "score_chosen": 8.0, "score_rejected": 2.0},
        {"chosen": [ASKED, BLUE], "rejected": [ASKED, RED]},
        {"question": SKY, "chosen": BLUE["content"], "rejected": RED["content"]},
        {"instruction": SKY, "input": "", "chosen": BLUE["content"], "rejected": RED["content"]},
        {
            "conversations": sharegpt(SKY),
            "chosen": {"from": "gpt", "value": BLUE["content"]},
            "rejected": {"from": "gpt", "value": RED["content"]},
        },
        {"input": {"messages": [ASKED]}, "preferred_output": [BLUE], "non_preferred_output": [RED]},
        {
            "chosen": f"\n\nHuman: {SKY}\n\nAssistant: {BLUE['content']}",
            "rejected": f"\n\nHuman: {SKY}\n\nAssistant: {RED['content']}",
        },
        {
            "prompt": f"\n\nHuman: {SKY}\n\nAssistant:",
            "chosen": " " + BLUE["content"],
            "rejected": RED["content"],
        },
        {"history": SKY, "human_ref_A": RED["content"], "human_ref_B": BLUE["content"]}
        | {"labels": 0, "score_A": 1, "score_B": 5},
        TREE,
    ],
)
def test_pairs_are_read_from_every_format(folder: Path, row: Any) -> None:
    tables, _ = read(folder, REWARD, [row])
    assert [(r["prompt"], r["chosen"], r["rejected"]) for r in tables["pairs"]] == [
        (user(SKY), BLUE["content"], RED["content"])
    ]
    assert tables["reward"] == []


@pytest.mark.parametrize("row", [TREE, {"instruction": SKY, "input": ""}, {"prompt": [ASKED]}])
def test_prompts_are_read_from_every_format(folder: Path, row: Any) -> None:
    tables, _ = read(folder, RLHF, [row])
    assert [row["prompt"] for row in tables["rlhf"]] == [user(SKY)]


def test_pairs_among_the_prompts_give_their_prompts_and_say_so(folder: Path) -> None:
    row = {"question": SKY, "chosen": "a", "rejected": "b", "system": "Be brief."}
    tables, [told] = read(folder, RLHF, [row])
    assert tables["rlhf"] == [{"prompt": [SYSTEM, ASKED], "source": "personal"}]
    assert told == (
        f"{RLHF}.jsonl: read as Orca's pairs: system + question -> prompt; of these the prompts "
        "alone"
    )


def test_helpsteer_s_ratings_become_scores_and_say_how(folder: Path) -> None:
    rows = [{"prompt": SKY, "response": "x", "helpfulness": n, "verbosity": 1} for n in (0, 3, 4)]
    tables, [told] = read(folder, REWARD, rows)
    assert [row["score"] for row in tables["reward"]] == [0.0, 3.75, 5.0]
    assert "helpfulness 0..4 -> score 0..5 (times 1.25)" in told
    put(folder, f"{REWARD}.jsonl", jsonl([{**rows[0], "helpfulness": 5}]))
    assert "row 1, field helpfulness: 5 is no rating; write a number from 0" in errors_of(folder)


@pytest.mark.parametrize("mark", [{"weight": 0}, {"train": False}, {"loss": False}])
def test_a_turn_marked_as_not_to_be_learned_stands_in_prompts_and_becomes_no_row(
    folder: Path, mark: dict[str, Any]
) -> None:
    talk = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello", **mark},
        {"role": "user", "content": "More"},
        {"role": "assistant", "content": "Yes", "weight": 1},
    ]
    tables, warnings = read(folder, ACTOR, [{"messages": talk}, {"messages": talk[:2]}])
    [row] = tables["actor"]
    assert row["completion"] == "Yes"
    assert [turn["content"] for turn in row["prompt"]] == ["Hi", "Hello", "More"]
    assert warnings == [
        f"{ACTOR}.jsonl: 1 conversations mark every reply as not to be learned (weight 0; train, "
        "training or loss false); they become no row"
    ]
    put(folder, f"{ACTOR}.jsonl", jsonl([{"messages": [*talk[:1], {**talk[1], "weight": 0.5}]}]))
    assert "turn 2: the weight 0.5 is neither 0 nor 1" in errors_of(folder)


def test_a_system_text_that_contradicts_the_first_turn_is_refused(folder: Path) -> None:
    row = {"messages": [SYSTEM, ASKED, BLUE], "system": "Be long."}
    put(folder, f"{ACTOR}.jsonl", jsonl([row]))
    assert "field system: differs from the system turn that the row begins" in errors_of(folder)
    tables, _ = read(folder, ACTOR, [{**row, "system": SYSTEM["content"]}])
    assert tables["actor"][0]["prompt"] == [SYSTEM, ASKED]


def test_the_original_s_own_rows_lose_their_marks(folder: Path) -> None:
    rows = [
        {"user_input": f"Human: {SKY}\n\n##\n\n", "completion": "Assistant: Blue light.\n\n##\n\n"},
        {
            "user_input": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: More\n\nAssistant:",
            "completion": " Yes",
        },
        {"user_input": f"{SKY}\n\n##\n\n", "completion": "Yes"},
        {"user_input": "Who is Human: the film?", "completion": "It is the Assistant: a reply"},
    ]
    tables, _ = read(folder, ACTOR, rows)
    found = [([t["content"] for t in r["prompt"]], r["completion"]) for r in tables["actor"]]
    assert found == [
        ([SKY], "Blue light."),
        (["Hi", "Hello", "More"], "Yes"),
        ([SKY], "Yes"),
        (["Who is Human: the film?"], "It is the Assistant: a reply"),
    ]


def test_rewards_without_a_field_score_are_to_be_scored_as_the_original_s_were(
    folder: Path,
) -> None:
    rows = [{"user_input": SKY, "completion": "x"}, {"user_input": SKY, "completion": "y"}]
    tables, [told] = read(folder, REWARD, rows)
    assert [row["score"] for row in tables["reward"]] == [None, None]
    assert told == f"{REWARD}.jsonl: 2 rows have no field score; they are to be scored by llm.judge"
    put(folder, f"{REWARD}.jsonl", jsonl([{**rows[0], "rating": 4}]))
    told = errors_of(folder)
    assert "has no score, and a field rating that may be one" in told
    assert "columns: {reward: {score: rating}}" in told


def test_columns_in_config_name_the_fields_of_a_table(folder: Path) -> None:
    rows = [{"question": SKY, "answer": "Yes", "rating": 4, "instruction": "x", "output": "y"}]
    columns = {"actor": {"prompt": "question", "completion": "answer"}}
    columns["reward"] = {**columns["actor"], "score": "rating"}
    columns["rlhf"] = {"prompt": "text"}
    settings = AssistantSettings.model_validate({"data": {"columns": columns}})
    put(folder, f"{REWARD}.csv", b"question,answer,rating\nSky?,Yes,4.5\n")
    put(folder, f"{RLHF}.jsonl", jsonl([{"text": SKY}]))
    tables, warnings = read(folder, ACTOR, rows, settings)
    assert (tables["actor"][0]["prompt"], tables["actor"][0]["completion"]) == (user(SKY), "Yes")
    assert [row["score"] for row in tables["reward"]] == [4.5]
    assert tables["rlhf"][0]["prompt"] == user(SKY)
    assert warnings == []
    put(folder, f"{RLHF}.jsonl", jsonl([{"prompt": SKY}]))
    told = errors_of(folder, settings)
    assert "data.columns.rlhf.prompt in config.yaml: no file of this table has a field text" in told


@pytest.mark.parametrize(
    ("row", "table", "told"),
    [
        (
            {"question": SKY, "answer": "Yes"},
            ACTOR,
            "is of no format that is read; its fields are answer, question; say in config.yaml "
            "which field is which:\n      data:\n"
            "        columns: {actor: {prompt: question, completion: answer}}",
        ),
        (
            {"instruction": SKY, "output": "a", "response": "b"},
            ACTOR,
            "may be read as Alpaca or Dolly; its fields are instruction, output, response; say in",
        ),
        ({"prompt": SKY, "user_input": SKY}, RLHF, "may be read as user_input or prompt; its"),
        ({"text": "Human says hi, assistant hello"}, ACTOR, "its fields are text; say in"),
        (
            {"message_id": "1", "parent_id": None, "text": "Hi", "role": "prompter"},
            ACTOR,
            "is of OASST's single messages, which are not read; take the file of trees",
        ),
        (
            {"id": "1", "data": {"rating": 1}, "meta": {}, "snapshot": {"chat": {}}},
            REWARD,
            "is of Open WebUI's feedback, which are not read; it is about replies of an assistant",
        ),
        (
            {"instruction": SKY, "completions": []},
            ACTOR,
            "is of UltraFeedback before its pairs were made, which are not read; take ultrafe",
        ),
        (
            {"instruction": SKY, "input": "", "Output": "a"},
            ACTOR,
            "the field output is missing; those there are: Output, instruction; nearest is Alpaca",
        ),
        (
            {"prompt": SKY, "chosen": [ASKED, BLUE]},
            REWARD,
            "the field rejected is missing; those there are: chosen, prompt; add it",
        ),
        ({"chosen": [BLUE], "rejected": [RED]}, REWARD, "holds a reply and no prompt; add the fi"),
        (
            {"chosen": [ASKED, BLUE], "rejected": [SYSTEM, ASKED, RED]},
            REWARD,
            "field rejected: does not begin with the same turns as chosen, but for the last",
        ),
    ],
)
def test_what_is_of_no_format_is_refused_with_the_nearest_and_the_lines_that_map_it(
    folder: Path, row: Any, table: str, told: str
) -> None:
    put(folder, f"{table}.jsonl", jsonl([row]))
    assert told in errors_of(folder)


def test_a_field_that_no_row_has_is_one_line_of_the_file(folder: Path) -> None:
    put(folder, f"{ACTOR}.jsonl", jsonl([{"prompt": SKY, "reply": "x"}] * 50))
    put(folder, f"{RLHF}.jsonl", jsonl([{"prompt": 5}] * 50))
    lines = errors_of(folder).splitlines()
    assert len(lines) == 1 + 3 + 1
    assert lines[1].startswith(f"  {ACTOR}.jsonl: the field completion is missing; those there are")
    assert lines[3] == "        columns: {actor: {prompt: prompt, completion: reply}}"
    assert lines[4].endswith("(and 49 more such rows)")


def test_nested_formats_are_read_from_parquet_too(folder: Path) -> None:
    rows = [
        {"input": {"messages": [ASKED]}, "preferred_output": [BLUE], "non_preferred_output": [RED]}
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{REWARD}.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"conversations": sharegpt(SKY, "Yes"), "rating": 1.5}]),
        folder / f"{ACTOR}.parquet",
    )
    tables, _ = build(folder)
    assert tables["pairs"][0]["chosen"] == BLUE["content"]
    assert tables["actor"][0]["completion"] == "Yes"


def test_transcripts_of_own_files_become_the_pairs_of_the_public_source(folder: Path) -> None:
    turns = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: {}\n\nAssistant: {}"
    rows = [
        {"chosen": turns.format(n, "yes"), "rejected": turns.format(n, "no")} for n in range(20)
    ]
    tables, _ = read(folder, REWARD, rows)
    public = [convert(row) for row in rows]
    found = [(row["prompt"], row["chosen"], row["rejected"]) for row in tables["pairs"]]
    assert found == [
        (row["prompt"], row["chosen"], row["rejected"]) for row in public if isinstance(row, dict)
    ]
