"""What is checked of each table, under fixed names; and the checks themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.splits import Row, leak
from chatllama_pipeline.records import SPLITS, Check

_SCHEMA, _NOT_EMPTY, _LEAK = ("schema", True), ("not_empty", True), ("no_split_leak", True)
_SOURCE = [_SCHEMA, _NOT_EMPTY]
_DATASET = [_SCHEMA, _NOT_EMPTY, _LEAK, ("enough_rows", False)]

# asset: (check, blocking); a builder returns exactly these, in this order.
CHECK_NAMES: dict[str, list[tuple[str, bool]]] = {
    "shp": _SOURCE,
    "hh_rlhf": _SOURCE,
    "grammar": _SOURCE,
    "personal_data": [],
    "preference_data": [
        _SCHEMA,
        _NOT_EMPTY,
        ("identical_pairs", True),
        _LEAK,
        ("length_only_accuracy", False),
    ],
    "synthetic_conversations": [],
    "synthetic_prompts": [],
    "synthetic_completions": [],
    "actor_training_data": _DATASET,
    "rlhf_training_data": _DATASET,
    "reward_training_data": [_SCHEMA, ("enough_rows", True), _LEAK, ("judge_agreement", False)],
}


def _fault(row: Row, schema: pa.Schema) -> str | None:
    """What is wrong with a row beyond its types, or None."""
    for field in schema:
        value = row[field.name]
        if value is None:
            if not field.nullable:
                return f"{field.name} is null"
        elif field.name in ("chosen", "rejected", "completion") and not value.strip():
            return f"{field.name} is empty"
    prompt: list[dict[str, str]] = row["prompt"]
    if not prompt or prompt[-1]["role"] != "user" or not prompt[-1]["content"].strip():
        return "prompt does not end with a user's turn"
    if row.get("split", "train") not in SPLITS:
        return f"split is {row['split']!r}"
    score = row.get("score")
    return None if score is None or 0 <= score <= 5 else f"score is {score}"


def schema_faults(rows: Iterable[Row], schema: pa.Schema) -> list[str]:
    """What is wrong with the rows, one line each."""
    faults = ((number, _fault(row, schema)) for number, row in enumerate(rows, start=1))
    return [f"row {number}: {fault}" for number, fault in faults if fault is not None]


def schema_check(faults: list[str]) -> Check:
    """No row may have a fault."""
    told = (
        f"{len(faults)} rows are unfit, the first is {faults[0]}" if faults else "every row is fit"
    )
    return Check("schema", not faults, True, len(faults), 0, told)


def not_empty_check(row_count: int, cure: str, needed: bool = True) -> Check:
    """At least one row, where rows are needed at all."""
    if row_count:
        told = f"{row_count} rows"
    else:
        told = f"no rows: {cure}" if needed else "no rows, and none are needed"
    return Check("not_empty", row_count > 0 or not needed, True, row_count, 1, told)


def leak_check(rows: list[Row]) -> Check:
    """No prompt on two sides, exactly or nearly."""
    leaked = leak(rows)
    told = (
        f"{leaked} rows repeat a prompt of another split" if leaked else "no prompt is on two sides"
    )
    return Check("no_split_leak", leaked == 0, True, leaked, 0, told)


def few_rows_check(row_count: int, few_rows: int) -> Check:
    """A warning where training has little to learn from."""
    passed = row_count >= few_rows
    told = (
        f"{row_count} rows" if passed else f"only {row_count} rows; {few_rows} or more are better"
    )
    return Check("enough_rows", passed, False, row_count, few_rows, told)


def length_only_accuracy(pairs: list[dict[str, Any]]) -> float:
    """How often the reply with more characters is chosen; ties count half; .5 without pairs."""
    if not pairs:
        return 0.5
    wins = 0.0
    for pair in pairs:
        chosen, rejected = len(pair["chosen"]), len(pair["rejected"])
        wins += 0.5 if chosen == rejected else float(chosen > rejected)
    return wins / len(pairs)
