"""Rows whose turns became texts, and rows of two formats in one table: whatever file holds them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from chatllama_pipeline.data.own.values import turns_in
from tests.data.own_files import ACTOR, REWARD, RLHF, build, errors_of, jsonl, put, user

SKY = "Why is the sky blue?"
ASKED = {"role": "user", "content": SKY}
BLUE = {"role": "assistant", "content": "Blue light scatters."}
RED = {"role": "assistant", "content": "Magic."}
TURNS = [ASKED, BLUE]


@pytest.mark.parametrize(
    "written",
    [
        json.dumps(TURNS),
        repr(TURNS),
        # numpy's arrays, as pandas writes what it read from Parquet.
        f"[{ASKED!r}\n {BLUE!r}]",
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".jsonl", ".parquet"])
def test_turns_that_became_a_text_are_read_in_every_format_and_field(
    folder: Path, written: str, ending: str
) -> None:
    fields = {
        REWARD: {"prompt": "Sky?", "chosen": written, "rejected": written},
        ACTOR: {"messages": written},
        RLHF: {"prompt": json.dumps([ASKED])},
    }
    fields[REWARD]["prompt"] = SKY
    for name, row in fields.items():
        frame = pandas.DataFrame([row])
        if ending == ".csv":
            frame.to_csv(folder / f"{name}.csv", index=False)
        elif ending == ".jsonl":
            put(folder, f"{name}.jsonl", jsonl([row]))
        else:
            frame.to_parquet(folder / f"{name}.parquet")
    tables, _ = build(folder)
    [pair] = tables["pairs"]
    assert (pair["prompt"], pair["chosen"]) == (user(SKY), BLUE["content"])
    assert tables["actor"][0]["completion"] == BLUE["content"]
    assert tables["rlhf"][0]["prompt"] == user(SKY)


def test_a_text_of_turns_that_can_not_be_read_is_refused(folder: Path) -> None:
    put(
        folder,
        f"{ACTOR}.jsonl",
        jsonl([{"prompt": SKY, "completion": "[{'role': 'assistant', 'c"}]),
    )
    assert "field completion: is a list of turns as a text that is no JSON" in errors_of(folder)
    assert turns_in("[" * 10_000 + "]" * 10_000) is None
    assert turns_in("[__import__('os').system('true')]") is None
    put(folder, f"{ACTOR}.jsonl", jsonl([{"prompt": SKY, "completion": "[1, 2, 3] is a list"}]))
    tables, _ = build(folder)
    assert tables["actor"][0]["completion"] == "[1, 2, 3] is a list"


def in_csv(folder: Path, frame: pandas.DataFrame) -> None:
    frame.to_csv(folder / f"{REWARD}.csv", index=False)


def in_lines(folder: Path, frame: pandas.DataFrame) -> None:
    frame.to_json(folder / f"{REWARD}.jsonl", orient="records", lines=True)


def in_parquet(folder: Path, frame: pandas.DataFrame) -> None:
    frame.to_parquet(folder / f"{REWARD}.parquet")


@pytest.mark.parametrize("write", [in_csv, in_lines, in_parquet])
def test_rows_of_two_formats_in_one_table_are_read_alike_whatever_holds_their_nulls(
    folder: Path, write: Callable[[Path, pandas.DataFrame], None]
) -> None:
    one = pandas.DataFrame([{"user_input": SKY, "completion": "x", "score": 3.0}])
    two = pandas.DataFrame([{"prompt": SKY, "chosen": "a", "rejected": "b"}])
    three = pandas.DataFrame([{"instruction": SKY, "output": "y"}])
    write(folder, pandas.concat([one, two, three]))
    tables, _ = build(folder)
    assert [(r["completion"], r["score"]) for r in tables["reward"]] == [("x", 3.0), ("y", None)]
    assert [(r["prompt"], r["chosen"]) for r in tables["pairs"]] == [(user(SKY), "a")]
