"""The sources that any assistant may draw on, and how their tables are made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatllama_pipeline.data import grammar, hh_rlhf, shp
from chatllama_pipeline.data.checks import not_empty_check, schema_check, schema_faults
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.hub import location_of
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.records import PAIR_SCHEMA, TABLE_FILE, Outcome

_ROWS_PER_BATCH = 10_000


@dataclass(frozen=True)
class Source:
    """A source: what it is, its rows (a pair, or the defect of a dropped row), where from.

    `variable` moves it from `hub_id` to another place; both are empty for one made here.
    """

    title: str
    rows: Callable[[], Iterable[Row | str]]
    variable: str = ""
    hub_id: str = ""


SOURCES: dict[str, Source] = {
    "shp": Source("Stanford Human Preferences (Reddit)", shp.rows, shp.VARIABLE, shp.HUB_ID),
    "hh_rlhf": Source("Anthropic's hh-rlhf", hh_rlhf.rows, hh_rlhf.VARIABLE, hh_rlhf.HUB_ID),
    "grammar": Source("questions and replies from templates of our own", grammar.grammar_pairs),
}


def source_location(name: str) -> str:
    """Where a source's rows come from now: a hub id or a place of the user's; "" if made here."""
    source = SOURCES[name]
    return location_of(source.variable, source.hub_id) if source.variable else ""


def build_source(name: str, output: Path) -> Outcome:
    """Write all pairs of a source to `output`, dropping and counting defects."""
    source = SOURCES[name]
    funnel = Funnel()
    domains: Counter[str] = Counter()
    faults: list[str] = []
    row_count = 0
    with pq.ParquetWriter(output / TABLE_FILE, PAIR_SCHEMA) as writer:
        for batch in _batches(name, source.rows(), funnel):
            faults += schema_faults(batch, PAIR_SCHEMA)
            domains.update(row["domain"] for row in batch)
            row_count += len(batch)
            writer.write_table(pa.Table.from_pylist(batch, schema=PAIR_SCHEMA))
    funnel.write(output)
    metrics: dict[str, Any] = {
        "dropped": funnel.dropped(),
        "domains": dict(sorted(domains.items())),
    }
    if source.variable:
        metrics["location"] = source_location(name)
    cure = (
        f"set {source.variable} to a place that holds rows"
        if source.variable
        else "see the grammar"
    )
    return Outcome(
        rows=row_count,
        metrics=metrics,
        checks=[schema_check(faults), not_empty_check(row_count, cure)],
    )


def _batches(name: str, rows: Iterable[Row | str], funnel: Funnel) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        funnel.read(name)
        if isinstance(row, str):
            funnel.drop(name, row)
            continue
        batch.append(row)
        if len(batch) == _ROWS_PER_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
