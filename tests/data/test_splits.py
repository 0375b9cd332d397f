"""Sides follow the first user turn; noise follows the pair; nothing follows the order of rows."""

from __future__ import annotations

from typing import Any

from chatllama_pipeline.data.splits import (
    drop_near_repeats,
    first_user_turn,
    is_flipped,
    leak,
    near_key,
    split_of,
    without_duplicates,
)
from chatllama_pipeline.settings import DataSettings

SHARES = DataSettings(validation_share=0.1, test_share=0.2)


def prompt(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]


def row(text: str, split: str) -> dict[str, Any]:
    return {"prompt": prompt(text), "split": split}


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


def test_the_first_user_turn_is_evened_out() -> None:
    system = {"role": "system", "content": "Be kind"}
    assert (
        first_user_turn([system, *prompt("  \uff37hat\tIS\nthis? ", "x", "y")]) == "what is this?"
    )
    assert first_user_turn([]) == ""


def test_near_repeats_share_their_words() -> None:
    assert near_key(prompt("What is rust?")) == near_key(prompt("rust: IS what, what!"))
    assert near_key(prompt("What is rust?")) != near_key(prompt("What is moss?"))
    assert near_key(prompt("?!")) == "?!"
    assert near_key(prompt("?!")) != near_key(prompt("..."))
    assert near_key(prompt("什么是锈")) != near_key(prompt("什么是苔"))


def test_training_rows_that_nearly_repeat_a_held_out_prompt_are_dropped_and_counted() -> None:
    rows = [
        row("What is rust?", "test"),
        row("Rust, what is!", "train"),
        row("What is moss?", "train"),
        row("Why is moss?", "validation"),
        row("Is moss why", "train"),
        row("Elsewhere held out", "train"),
    ]
    assert leak(rows) == 2
    kept, dropped = drop_near_repeats(rows, {near_key(prompt("held out elsewhere"))})
    assert kept == [rows[0], rows[2], rows[3]]
    assert dropped == [rows[1], rows[4], rows[5]]
    assert leak(kept) == 0


def test_a_prompt_in_both_validation_and_test_is_a_leak() -> None:
    assert leak([row("What is rust?", "validation"), row("what is RUST?", "test")]) == 1


def test_duplicates_are_dropped_whatever_the_order() -> None:
    rows = [{"prompt": prompt(text), "source": source} for text in "abc" for source in "xy"]
    forth, dropped = without_duplicates(rows, ("prompt",))
    back, _ = without_duplicates(rows[::-1], ("prompt",))
    assert forth == back
    assert (len(forth), len(dropped)) == (3, 3)


def test_noise_flips_its_share_and_follows_the_seed_and_the_pair_alone() -> None:
    pairs = [
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
