"""Which side a conversation stands on, and what must not stand on the other one.

Sides follow a hash of the first user turn alone, so adding rows moves no old prompt, and every
table of an assistant splits alike. Label noise follows a hash of the pair in the same way.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

from chatllama_pipeline.records import Split
from chatllama_pipeline.settings import DataSettings

Row = dict[str, Any]
Messages = list[dict[str, str]]

_WORD = re.compile(r"\w+")


def content_hash(*parts: Any) -> str:
    """A hash of plain values, the same on every machine."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _share(digest: str) -> float:
    """A number in [0, 1) from a hash."""
    return int(digest[:13], 16) / 16**13


def first_user_turn(prompt: Messages) -> str:
    """The first user turn with case, Unicode form and white space evened out."""
    text = next((turn["content"] for turn in prompt if turn["role"] == "user"), "")
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def split_of(prompt: Messages, data: DataSettings) -> Split:
    """The side of a prompt: test, validation or train, in the shares that `data` sets."""
    place = _share(
        hashlib.sha256(first_user_turn(prompt).encode("utf-8", "surrogatepass")).hexdigest()
    )
    if place < data.test_share:
        return "test"
    return "validation" if place < data.test_share + data.validation_share else "train"


def near_key(prompt: Messages) -> str:
    """What nearly the same first user turns share: their set of words, whatever the order, case
    and punctuation. A turn without a word stands for itself."""
    turn = first_user_turn(prompt)
    return " ".join(sorted(set(_WORD.findall(turn)))) or turn


def assign_splits(rows: Iterable[Row], data: DataSettings) -> list[Row]:
    """The rows, each with its `split`."""
    return [{**row, "split": split_of(row["prompt"], data)} for row in rows]


def held_out_keys(rows: Iterable[Row], data: DataSettings) -> set[str]:
    """The near-repeat keys of all validation and test prompts among `rows`."""
    return {near_key(row["prompt"]) for row in rows if split_of(row["prompt"], data) != "train"}


def drop_near_repeats(rows: list[Row], held_out: set[str]) -> tuple[list[Row], list[Row]]:
    """Without the training rows that nearly repeat a held-out prompt, and those rows.

    `held_out` are keys beside those of `rows` themselves.
    """
    keys = [near_key(row["prompt"]) for row in rows]
    pairs = list(zip(rows, keys, strict=True))
    every = held_out | {key for row, key in pairs if row["split"] != "train"}
    kept = [row for row, key in pairs if row["split"] != "train" or key not in every]
    return kept, [row for row, key in pairs if row["split"] == "train" and key in every]


def leak(rows: Iterable[Row]) -> int:
    """How many training rows repeat, nearly or exactly, a validation or test prompt; also counts
    rows whose first user turn stands in both validation and test."""
    sides: dict[str, set[str]] = {}
    turns: dict[str, set[str]] = {}
    seen = [(row["split"], near_key(row["prompt"]), first_user_turn(row["prompt"])) for row in rows]
    for split, key, turn in seen:
        sides.setdefault(key, set()).add(split)
        turns.setdefault(turn, set()).add(split)
    return sum(
        (split == "train" and len(sides[key]) > 1) or (split == "test" and len(turns[turn]) > 1)
        for split, key, turn in seen
    )


def is_flipped(pair: Row, noise: float, seed: int) -> bool:
    """Whether label noise swaps this pair's replies; a matter of the seed and the pair alone."""
    return (
        noise > 0
        and _share(content_hash(seed, pair["prompt"], pair["chosen"], pair["rejected"])) < noise
    )


def without_duplicates(
    rows: Iterable[Row], columns: tuple[str, ...]
) -> tuple[list[Row], list[Row]]:
    """Rows that differ in `columns`, in the order of their hashes, and those that were dropped.

    Of rows that agree in `columns` the one with the lowest hash stays, so the order in which the
    rows came changes nothing.
    """
    ordered = sorted(rows, key=lambda row: content_hash(row))
    seen: set[str] = set()
    kept: list[Row] = []
    dropped: list[Row] = []
    for row in ordered:
        key = content_hash(*(row[column] for column in columns))
        (dropped if key in seen else kept).append(row)
        seen.add(key)
    return kept, dropped


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """Row counts as `split/source`, sorted by name."""
    return dict(sorted(Counter(f"{row['split']}/{row['source']}" for row in rows).items()))
