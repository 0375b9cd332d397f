"""Sides follow the first user turn; noise follows the pair; nothing follows the order of rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.near_duplicates import evened
from chatllama_pipeline.data.prepare.rows import Preparation
from chatllama_pipeline.data.prepare.tokens import Limits
from chatllama_pipeline.data.splits import is_flipped, split_of
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.settings import AssistantSettings, DataSettings

SHARES = DataSettings(validation_share=0.1, test_share=0.2)


def prompt(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]


def prepared(folder: Path, *rows: tuple[str, str]) -> Preparation:
    """Rows of a first user turn and the side they came with."""
    listed = [{"prompt": prompt(text), "source": "x", "split": split} for text, split in rows]
    made = Preparation((), AssistantSettings(), Limits(None, None), folder)
    table = pa.Table.from_pylist(listed, schema=PROMPT_SCHEMA)
    assert list(made.scanned([table])) == [table]
    return made


def test_the_shares_are_met() -> None:
    sides = [split_of(prompt(f"question {number}"), SHARES) for number in range(5000)]
    assert abs(sides.count("test") / 5000 - 0.2) < 0.02
    assert abs(sides.count("validation") / 5000 - 0.1) < 0.02


def test_every_continuation_of_a_conversation_stands_on_one_side() -> None:
    for number in range(50):
        start = f"question {number}"
        side = split_of(prompt(start), SHARES)
        assert split_of(prompt(start, "reply", "and then?"), SHARES) == side
        assert split_of(prompt(f"  QUESTION\n {number} "), SHARES) == side
        system = [{"role": "system", "content": f"be {number}"}]
        assert split_of(system + prompt(start), SHARES) == side


def test_a_smaller_test_share_moves_rows_only_out_of_test() -> None:
    smaller = DataSettings(validation_share=0.1, test_share=0.1)
    for number in range(300):
        text = prompt(f"question {number}")
        if split_of(text, smaller) == "test":
            assert split_of(text, SHARES) == "test"


def test_texts_are_evened_out() -> None:
    assert evened("  \uff37hat\tIS\nthis? ") == "what is this?"


def test_training_rows_that_nearly_repeat_a_held_out_prompt_are_dropped_and_counted(
    tmp_path: Path,
) -> None:
    rows = prepared(
        tmp_path,
        ("What is rust?", "test"),
        ("what: is RUST!", "train"),
        ("What is moss?", "train"),
        ("Why is moss?", "validation"),
        ("Why, is moss", "train"),
        ("Held out: elsewhere!", "train"),
        ("?!", "train"),
        ("...", "test"),
        ("什么是锈", "train"),
        ("什么是苔", "test"),
    )
    assert rows.leaked() == 2
    elsewhere = [{"prompt": prompt("held out elsewhere"), "source": "y", "split": "test"}]
    rows.drop_near_duplicates_of_held_out([[pa.Table.from_pylist(elsewhere, schema=PROMPT_SCHEMA)]])
    assert rows.alive.tolist() == [
        *(True, False, True, True, False, False),
        *(True, True, True, True),
    ]
    assert rows.funnel.dropped() == {"near_repeat": 3}
    assert rows.leaked() == 0


def test_noise_flips_its_share_and_follows_the_seed_and_the_pair_alone() -> None:
    pairs: list[dict[str, Any]] = [
        {"prompt": prompt(f"question {number}"), "chosen": "a", "rejected": "b"}
        for number in range(4000)
    ]
    flips = [is_flipped(pair, 0.05, 0) for pair in pairs]
    assert abs(sum(flips) / 4000 - 0.05) < 0.01
    assert [is_flipped({**pair, "source": "x"}, 0.05, 0) for pair in pairs] == flips
    assert [is_flipped(pair, 0.05, 1) for pair in pairs] != flips
    # More noise keeps the flips of less noise.
    assert all(is_flipped(pair, 0.5, 0) for pair, flip in zip(pairs, flips, strict=True) if flip)
    assert not any(is_flipped(pair, 0.0, 0) for pair in pairs)
