"""The checks of tables; what each asset has of them the room itself names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.records import SPLITS, Check


@dataclass
class Faults:
    """How many rows are unfit, and what is wrong with the first."""

    rows: int = 0
    count: int = 0
    first: str = ""

    def look_at(self, table: pa.Table) -> None:
        """Look at the next rows of a table, whose schema says what may be null."""
        flags = list(_faults(table))
        unfit = np.zeros(table.num_rows, np.bool_)
        for _, flagged in flags:
            unfit |= flagged
        if unfit.any() and not self.first:
            number = int(np.flatnonzero(unfit)[0])
            what = next(told for told, flagged in flags if flagged[number])
            self.first = f"row {self.rows + number + 1}: {what}"
        self.rows += table.num_rows
        self.count += int(unfit.sum())


def _faults(table: pa.Table) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """What may be wrong with rows beyond their types, and with which it is."""
    for field in table.schema:
        column = table[field.name]
        if not field.nullable:
            yield f"{field.name} is null", _flags(pc.is_null(column))
        if field.name in ("chosen", "rejected", "completion"):
            yield f"{field.name} is empty", _flags(_is_blank(column))
    prompts = table["prompt"].combine_chunks()
    ends, starts = prompts.offsets.to_numpy()[1:], prompts.offsets.to_numpy()[:-1]
    turns = prompts.values
    asks = _flags(pc.equal(turns.field("role"), "user"))
    asks &= ~_flags(_is_blank(turns.field("content")))
    ended = np.zeros(table.num_rows, np.bool_)
    ended[ends > starts] = asks[ends[ends > starts] - 1]
    yield "prompt does not end with a user's turn", ~ended
    if "split" in table.column_names:
        known = pc.is_in(table["split"], pa.array(SPLITS))
        yield f"split is none of {', '.join(SPLITS)}", ~_flags(known)
    if "score" in table.column_names:
        score = table["score"]
        fit = pc.and_(pc.greater_equal(score, 0), pc.less_equal(score, 5))
        yield "score is not between 0 and 5", ~_flags(pc.fill_null(fit, True))


def _is_blank(texts: Any) -> Any:
    return pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)


def _flags(column: Any) -> npt.NDArray[np.bool_]:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flags: npt.NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return flags.astype(np.bool_)


def schema_check(faults: Faults) -> Check:
    """No row may have a fault."""
    told = (
        f"{faults.count} rows are unfit, the first is {faults.first}"
        if faults.count
        else "every row is fit"
    )
    return Check("schema", not faults.count, True, faults.count, 0, told)


def not_empty_check(row_count: int, cure: str, needed: bool = True) -> Check:
    """At least one row, where rows are needed at all."""
    if row_count:
        told = f"{row_count} rows"
    else:
        told = f"no rows: {cure}" if needed else "no rows, and none are needed"
    return Check("not_empty", row_count > 0 or not needed, True, row_count, 1, told)


def leak_check(leaked: int) -> Check:
    """No prompt on two sides, exactly or nearly."""
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


@dataclass
class LengthWins:
    """How often the reply with more characters is the chosen one; ties count half."""

    pairs: int = 0
    wins: float = 0.0

    def look_at(self, table: pa.Table) -> None:
        chosen, rejected = (
            pc.utf8_length(table[side]).to_numpy().astype(np.int64)
            for side in ("chosen", "rejected")
        )
        self.pairs += table.num_rows
        self.wins += float((chosen > rejected).sum() + (chosen == rejected).sum() / 2)

    @property
    def accuracy(self) -> float:
        """.5 without pairs."""
        return self.wins / self.pairs if self.pairs else 0.5
