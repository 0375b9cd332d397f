"""ChatLLaMA's three datasets: conversations for the actor, scored replies, prompts for PPO.

Every builder reads version folders batch by batch, drops and counts what must not train anything,
splits by the first user turn, and writes `data.parquet` in the order of the rows' hashes with the
original's JSON file beside it: the order in which rows came changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.checks import (
    Faults,
    few_rows_check,
    leak_check,
    not_empty_check,
    schema_check,
)
from chatllama_pipeline.data.feedback.rows import ACTOR_FILE, SOURCE
from chatllama_pipeline.data.grammar.rows import read_question
from chatllama_pipeline.data.prepare.lengths import limits_of
from chatllama_pipeline.data.prepare.preferences import (
    LENGTHS_KEY,
    PERSONAL_TABLES,
    held_out,
    lengths_mark,
)
from chatllama_pipeline.data.prepare.rows import Preparation
from chatllama_pipeline.data.tables import OriginalFile, read_batches
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import TABLE_FILE, Outcome
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.section import told_paths
from chatllama_pipeline.table_files import row_count, table_schema

# Dataset -> its schema, and what the original's file holds beside the prompt.
_DATASETS: dict[str, tuple[pa.Schema, tuple[str, ...]]] = {
    "actor_training_data": (ACTOR_SCHEMA, ("completion",)),
    "reward_training_data": (REWARD_SCHEMA, ("completion", "score")),
    "rlhf_training_data": (PROMPT_SCHEMA, ()),
}


@dataclass(frozen=True)
class Rows:
    """Batches of `count` rows, read anew at each call; `trusted` where their lengths were held
    before."""

    batches: Callable[[], Iterable[pa.Table]]
    count: int
    trusted: bool = False


@dataclass(frozen=True)
class Dataset:
    """What was written; its `prepared.funnel` is for the caller to write."""

    rows: int
    prepared: Preparation
    faults: Faults

    def outcome(self, settings: AssistantSettings, cure: str) -> Outcome:
        """With the checks of a dataset that needs no judge."""
        checks = [
            schema_check(self.faults),
            not_empty_check(self.rows, cure),
            leak_check(self.prepared.leaked()),
            few_rows_check(self.rows, settings.checks.few_rows),
        ]
        return Outcome(rows=self.rows, metrics=self.metrics(), checks=checks)

    def metrics(self) -> dict[str, object]:
        return {
            "rows": self.prepared.counts(),
            "dropped": self.prepared.funnel.dropped(),
            "cut_prompts": self.prepared.cut_prompts(),
            "tokenized_texts": self.prepared.tokenized(),
        }


def write_dataset(
    name: str,
    sources: list[Rows],
    preference: Path | None,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    on_group: Callable[[pa.Table], None] = lambda group: None,
    feedback: Path | None = None,
    schema: pa.Schema | None = None,
) -> Dataset:
    """Write the rows of `sources` that may train, as a table and in the original's format;
    `schema` is the table's where it is not the dataset's usual one.

    No training row nearly repeats a held-out prompt of this table, of the user's own rows, of
    `feedback`, or of the pairs in `preference` (None: they are among the sources).
    """
    usual, columns = _DATASETS[name]
    replies = columns[:1]
    expected = sum(source.count for source in sources)
    rows = Preparation(replies, settings, limits_of(settings), output, expected)
    for source in sources:
        for _ in rows.scanned(source.batches(), source.trusted):
            pass
    rows.drop_duplicates()
    rows.drop_near_duplicates()
    elsewhere = [read_batches(personal / table) for table in PERSONAL_TABLES]
    rows.drop_near_duplicates_of_held_out([*elsewhere, *held_out(preference), *held_out(feedback)])
    faults = Faults()
    with ExitStack() as stack:
        original = stack.enter_context(OriginalFile(output / f"{name}.json", columns))

        def take(group: pa.Table) -> None:
            on_group(group)
            faults.look_at(group)
            original.add(group)

        every = (table for source in sources for table in source.batches())
        written = rows.emit(every, output / TABLE_FILE, schema or usual, take)
    return Dataset(written, rows, faults)


def said_rows(feedback: Path | None, file: str) -> list[Rows]:
    """The rows that a table of `feedback` holds, with their splits; none of None."""
    return [] if feedback is None else [_rows_of(feedback / file)]


def _rows_of(table: Path) -> Rows:
    return Rows(lambda: read_batches(table), row_count(table))


def _pairs(
    preference: Path, settings: AssistantSettings, sides: tuple[str, ...], but: str = ""
) -> Rows:
    """The pairs as rows of one reply (of none without `sides`), with their splits; those of the
    source `but` left out."""
    path = preference / TABLE_FILE

    def batches() -> Iterator[pa.Table]:
        for table in read_batches(path, ["prompt", *sides, "source", "split"]):
            table = table.filter(pc.not_equal(table["source"], but))
            for side in sides:
                names = ["completion" if name == side else name for name in table.column_names]
                others = [other for other in sides if other != side]
                yield table.rename_columns(names).drop_columns(others)
            if not sides:
                yield table

    held = (table_schema(path).metadata or {}).get(LENGTHS_KEY)
    count = row_count(path) * max(1, len(sides))
    return Rows(batches, count, trusted=held == lengths_mark(settings))


def build_actor_training_data(
    preference: Path,
    synthetic_conversations: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    feedback: Path | None = None,
) -> Outcome:
    """Write the conversations that the actor imitates, and `actor_training_data.json`.

    From pairs come the chosen replies, or both with `data.actor_replies: both`; from `feedback`
    what people liked, and of its pairs no more: nobody asks for replies that are disliked.
    """
    sides = ("chosen", "rejected") if settings.data.actor_replies == "both" else ("chosen",)
    sources = [
        _pairs(preference, settings, sides, but=SOURCE),
        _rows_of(synthetic_conversations / TABLE_FILE),
        _rows_of(personal / "actor.parquet"),
        *said_rows(feedback, ACTOR_FILE),
    ]
    written = write_dataset(
        "actor_training_data", sources, None, personal, settings, output, feedback=feedback
    )
    written.prepared.funnel.write(output)
    cure = (
        "name a source under data.sources, set llm.provider and llm.synthetic_conversations, or "
        f"put rows into {told_paths(settings.actor_config.train_dataset_path)}"
    )
    return written.outcome(settings, cure)


def build_rlhf_training_data(
    preference: Path,
    synthetic_prompts: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    feedback: Path | None = None,
) -> Outcome:
    """Write the prompts that PPO answers, and `rlhf_training_data.json`.

    Raises DataError where the judge of their replies could not read a prompt: it would refuse in
    evaluation, hours of training later.
    """
    sources = [
        _pairs(preference, settings, ()),
        _rows_of(synthetic_prompts / TABLE_FILE),
        _rows_of(personal / "rlhf.parquet"),
        *said_rows(feedback, TABLE_FILE),
    ]
    outside: list[str] = []

    def judge_reads(group: pa.Table) -> None:
        if settings.judge == "rules":
            asked = (prompt[-1]["content"] for prompt in group["prompt"].to_pylist())
            outside.extend(text for text in asked if read_question(text) is None)

    written = write_dataset(
        "rlhf_training_data", sources, None, personal, settings, output, judge_reads, feedback
    )
    _check_that_rules_can_judge(outside)
    written.prepared.funnel.write(output)
    cure = (
        "name a source under data.sources, set llm.provider and llm.synthetic_prompts, or put "
        f"rows into {told_paths(settings.trainer_config.examples_path)}"
    )
    return written.outcome(settings, cure)


def _check_that_rules_can_judge(outside: list[str]) -> None:
    if outside:
        raise DataError(
            f"{len(outside)} prompts are outside of the grammar, which is all that the judge rules "
            f"knows; the first is {outside[0][:60]!r}. Set evaluation.judge: none in config.yaml "
            "(a person then approves the release), or leave them out"
        )
