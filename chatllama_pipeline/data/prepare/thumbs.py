"""Replies that people found good or not: what KTO and the reward model learn from."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from chatllama_pipeline.data.own.rows import THUMB_SCORES
from chatllama_pipeline.data.prepare.lengths import limits_of
from chatllama_pipeline.data.prepare.rows import Preparation
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import read_batches, read_rows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import SPLITS, TABLE_FILE, THUMBS_FILE
from chatllama_pipeline.schemas import THUMB_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.table_files import row_count


@dataclass(frozen=True)
class Thumbs:
    """What was written: training rows of each kind, rows on two sides, and what was dropped."""

    up: int
    down: int
    leaked: int
    metrics: dict[str, object]


def write_thumbs(
    folders: Sequence[Path],
    elsewhere: Iterable[Iterable[pa.Table]],
    settings: AssistantSettings,
    output: Path,
    on_group: Callable[[pa.Table], None],
) -> Thumbs | None:
    """Write the thumbs of versions with their splits as `thumbs.parquet`; None where none has any.

    A reply to the same prompt that was found both good and bad says nothing, and is dropped. No
    training row nearly repeats a held-out prompt of this table, of the pairs in `output`, or of
    the tables `elsewhere`.
    """
    paths = [path for folder in folders if (path := folder / THUMBS_FILE).exists()]
    expected = sum(map(row_count, paths))
    if not expected:
        return None

    def every() -> Iterator[pa.Table]:
        for path in paths:
            yield from read_batches(path)

    rows = Preparation(("completion",), settings, limits_of(settings), output, expected)
    for table in rows.scanned(every()):
        rows.note("label", table["label"].to_numpy())
    rows.drop_contradictions("label")
    rows.drop_duplicates()
    pairs = read_batches(output / TABLE_FILE, ["prompt", "source", "split"])
    rows.drop_near_duplicates_of_held_out([*elsewhere, pairs])
    kinds = {True: 0, False: 0}

    def look_at(group: pa.Table) -> None:
        on_group(group)
        for row in group.select(["label", "split"]).to_pylist():
            kinds[row["label"]] += row["split"] == SPLITS[0]

    rows.emit(every(), output / THUMBS_FILE, THUMB_SCHEMA, look_at)
    metrics: dict[str, object] = {"rows": rows.counts(), "dropped": rows.funnel.dropped()}
    return Thumbs(kinds[True], kinds[False], rows.leaked(), metrics)


def scored_rows(personal: Path) -> tuple[list[Row], list[Row]]:
    """The user's own scored replies, and those left out that were found both good and bad.

    Where there are thumbs, `thumb` tells of each row whether its score is no more than one.
    """
    rows = read_rows(personal, "reward.parquet")
    if not (personal / THUMBS_FILE).exists():
        return rows, []
    thumbs = [_as_scored(thumb) for thumb in read_rows(personal, THUMBS_FILE)]
    kinds: dict[str, set[float]] = {}
    for thumb in thumbs:
        kinds.setdefault(_said(thumb), set()).add(thumb["score"])
    kept: list[Row] = []
    contradicted: list[Row] = []
    place = 0
    for row in rows:
        # Both tables hold thumbs in the order in which they were read.
        is_thumb = place < len(thumbs) and row == thumbs[place]
        place += is_thumb
        both = is_thumb and len(kinds[_said(row)]) > 1
        (contradicted if both else kept).append({**row, "thumb": is_thumb})
    return kept, contradicted


def _as_scored(thumb: Row) -> Row:
    shared = {name: value for name, value in thumb.items() if name != "label"}
    return {**shared, "score": THUMB_SCORES[thumb["label"]]}


def _said(row: Row) -> str:
    return json.dumps([row["prompt"], row["completion"]])


def require_both_kinds(up: int, down: int) -> None:
    """Raise DataError where KTO's training thumbs are of one kind, or all are gone."""
    if up and down:
        return
    told = f"all {up + down} training thumbs point {'up' if up else 'down'}"
    none = "there is no training thumb" if not up + down else told
    raise DataError(
        f"improve_by: kto learns what was found good from what was not, and {none}: add thumbs of "
        "the other kind to the files that reward_config.train_dataset_path names, take out the "
        "label of all so that pairs are learned from, or improve by ppo"
    )
