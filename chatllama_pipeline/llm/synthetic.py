"""Synthetic rows: conversations, prompts and completions that a writer wrote."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.own.personal import TABLES, TEMPLATES_FILE
from chatllama_pipeline.data.splits import Row, split_of
from chatllama_pipeline.data.tables import as_messages, as_prompt, read_rows, write_rows
from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.plans import estimate_lines, plan_writing
from chatllama_pipeline.llm.rules import RulesWriter
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.llm.writer.novelty import diversity
from chatllama_pipeline.llm.writer.requests import WriterRequests
from chatllama_pipeline.llm.writer.texts import Example
from chatllama_pipeline.llm.writer.writing import Batch, LlmWriter, first_turn
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings

# Beside each row that an LLM wrote: how, by which model, from which template and examples.
PROVENANCE = pa.schema(
    [
        pa.field("way", pa.string(), nullable=False),
        pa.field("quality", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("template", pa.string(), nullable=False),
        pa.field("examples", pa.list_(pa.string()), nullable=False),
    ]
)
# A reply of the user's own that is good enough to be an example of a good one.
_GOOD_SCORE = 4


@dataclass(frozen=True)
class Kind:
    """The table that a kind of synthetic rows has, the template that it is written from, and the
    user's tables whose rows are its examples: the first of them that has any."""

    table: str
    template: str
    examples: tuple[str, ...]


KINDS = {
    "synthetic_conversations": Kind("actor", "actor", ("actor", "reward")),
    "synthetic_prompts": Kind("rlhf", "rlhf", ("rlhf", "actor", "reward")),
    "synthetic_completions": Kind("actor", "reward", ("reward", "actor", "rlhf")),
}


def build_synthetic(
    asset: str,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    run_folder: Path | None = None,
    progress: Progress | None = None,
    machine: Machine | None = None,
) -> Outcome:
    """Write as many rows as `llm.<asset>` says, none where nobody writes.

    Fewer with a warning where an LLM only repeats itself; raises ProviderError, with the counts of
    what was refused, where it wrote nothing that could be used.
    """
    role, count = settings.role("writer"), int(getattr(settings.llm, asset))
    load_templates(personal)  # Its faults are told before anything is paid for.
    if role.asks_a_model and count:
        with open_client(role, run_folder or output, machine) as client:
            requests = writer_requests(asset, personal, settings)
            if progress:
                way, turns = settings.llm.conversations_by, settings.llm.turns
                plan = plan_writing(asset, requests, count, way, turns)
                for line in estimate_lines(client, plan, role.max_usd):
                    progress.say(line)
            known = known_examples(asset, personal)
            writer = LlmWriter(client, requests, known, progress, one_round=role.batch)
            batch = _write(asset, writer, count, settings)
            ledger, told = client.ledger().metrics(), client.warnings()
        found = _outcome(asset, batch, writer.name, output, role.provider, ledger)
        return dataclasses.replace(found, warnings=[*told, *found.warnings])
    rows: list[Row] = []
    warnings = []
    if role.provider == "rules":
        rows = _rows_by_rules(asset, count, stage_seed(settings.seed, asset))
        if (key := KINDS[asset].template) and (personal / TEMPLATES_FILE).is_file():
            warnings.append(
                f"{TEMPLATES_FILE}: {key!r} has no effect, rules writes from its grammar"
            )
    write_rows(rows, TABLES[KINDS[asset].table], output)
    return Outcome(rows=len(rows), metrics={"rows": len(rows)}, warnings=warnings)


def known_examples(asset: str, personal: Path) -> list[Example]:
    """The user's rows that rows of `asset` are written after."""
    for table in KINDS[asset].examples:
        rows = read_rows(personal, f"{table}.parquet")
        if asset == "synthetic_conversations" and table == "reward":
            rows = [row for row in rows if (row["score"] or 0) >= _GOOD_SCORE]
        if rows:
            return [
                Example(
                    f"{table}:{number}",
                    as_prompt(row["prompt"]),
                    row.get("completion", ""),
                    row.get("score"),
                )
                for number, row in enumerate(rows, start=1)
            ]
    return []


def writer_requests(asset: str, personal: Path, settings: AssistantSettings) -> WriterRequests:
    """How the writer of `asset` asks. It is shown no validation or test prompt, unless there are
    no others: what it writes is trained on."""
    role, known = settings.role("writer"), known_examples(asset, personal)
    training = [
        example
        for example in known
        if split_of(as_messages(example.prompt), settings.data) == "train"
    ]
    return WriterRequests(
        load_templates(personal),
        training or known,
        temperature=role.temperature,
        max_tokens=role.max_tokens,
        rows_per_call=settings.llm.rows_per_call,
        seed=stage_seed(settings.seed, asset),
    )


def _write(asset: str, writer: LlmWriter, count: int, settings: AssistantSettings) -> Batch:
    if asset == "synthetic_prompts":
        return writer.prompts(count)
    if asset == "synthetic_completions":
        return writer.completions(count)
    return writer.conversations(count, settings.llm.conversations_by, settings.llm.turns)


def _rows_by_rules(asset: str, count: int, seed: int) -> list[Row]:
    writer, source = RulesWriter(), "synthetic_rules"
    if asset == "synthetic_prompts":
        prompts = writer.prompts(count, seed)
        return [{"prompt": as_messages(prompt), "source": source} for prompt in prompts]
    write = writer.conversations if asset == "synthetic_conversations" else writer.completions
    return [
        {"prompt": as_messages(prompt), "completion": reply, "source": source}
        for prompt, reply in write(count, seed)
    ]


def _outcome(
    asset: str, batch: Batch, model: str, output: Path, provider: str, ledger: dict[str, Any]
) -> Outcome:
    """Write what an LLM wrote, with its provenance; refuse where that is nothing."""
    if not batch.rows:
        raise ProviderError(
            f"{asset}: {model} wrote nothing that could be used: {batch.stopped}. The last that "
            f"was refused: {batch.said!r}. Look at what it is asked with `python -m "
            "chatllama_pipeline preview`, raise llm.writer.max_tokens where replies are cut off, "
            "or choose another model under llm.writer"
        )
    table = TABLES[KINDS[asset].table]
    rows = [
        {
            "prompt": as_messages(row.prompt),
            "completion": row.completion,
            "source": f"synthetic_{provider}",
            "way": row.way,
            "quality": row.quality,
            "model": model,
            "template": row.template,
            "examples": list(row.examples),
        }
        for row in batch.rows
    ]
    write_rows(rows, pa.unify_schemas([table, PROVENANCE]), output)
    texts = list(dict.fromkeys(first_turn(row.prompt) for row in batch.rows))
    metrics: dict[str, Any] = {
        "rows": len(rows),
        "refused": dict(batch.refused.most_common()),
        "prompt_diversity": diversity(texts),
        **ledger,
    }
    if asset != "synthetic_prompts":
        metrics["completion_diversity"] = diversity([row.completion for row in batch.rows])
    warnings = [f"{asset}: {model} {batch.stopped}"] if batch.stopped else []
    return Outcome(rows=len(rows), metrics=metrics, warnings=warnings)
