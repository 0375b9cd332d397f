"""Synthetic rows: conversations, prompts and completions that a writer wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chatllama_pipeline.data.personal import TABLES, TEMPLATES_FILE
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import as_messages, write_rows
from chatllama_pipeline.llm.providers import Writer, open_writer
from chatllama_pipeline.records import Outcome, Prompt
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings


def _conversation_rows(written: Sequence[tuple[Prompt, str]], writer: Writer) -> list[Row]:
    return [
        {"prompt": as_messages(prompt), "completion": reply, "source": f"synthetic_{writer.name}"}
        for prompt, reply in written
    ]


def _outcome(rows: list[Row], template: str, personal: Path, writer: Writer | None) -> Outcome:
    warnings = []
    if writer is not None and writer.name == "rules" and (personal / TEMPLATES_FILE).is_file():
        warnings.append(
            f"{TEMPLATES_FILE}: {template!r} has no effect, rules writes from its grammar"
        )
    return Outcome(rows=len(rows), metrics={"rows": len(rows)}, warnings=warnings)


def build_synthetic_conversations(
    personal: Path, settings: AssistantSettings, output: Path
) -> Outcome:
    """Write `llm.synthetic_conversations` prompts with a reply; none without a provider."""
    writer, seed = (
        open_writer(settings.llm.provider),
        stage_seed(settings.seed, "synthetic_conversations"),
    )
    rows: list[Row] = []
    if writer is not None:
        rows = _conversation_rows(
            writer.conversations(settings.llm.synthetic_conversations, seed), writer
        )
    write_rows(rows, TABLES["actor"], output)
    return _outcome(rows, "actor", personal, writer)


def build_synthetic_prompts(personal: Path, settings: AssistantSettings, output: Path) -> Outcome:
    """Write `llm.synthetic_prompts` prompts; none without a provider."""
    writer, seed = (
        open_writer(settings.llm.provider),
        stage_seed(settings.seed, "synthetic_prompts"),
    )
    rows: list[Row] = []
    if writer is not None:
        rows = [
            {"prompt": as_messages(prompt), "source": f"synthetic_{writer.name}"}
            for prompt in writer.prompts(settings.llm.synthetic_prompts, seed)
        ]
    write_rows(rows, TABLES["rlhf"], output)
    return _outcome(rows, "rlhf", personal, writer)


def build_synthetic_completions(
    personal: Path, settings: AssistantSettings, output: Path
) -> Outcome:
    """Write `llm.synthetic_completions` prompts with replies of all qualities, if any."""
    writer, seed = (
        open_writer(settings.llm.provider),
        stage_seed(settings.seed, "synthetic_completions"),
    )
    rows: list[Row] = []
    if writer is not None:
        rows = _conversation_rows(
            writer.completions(settings.llm.synthetic_completions, seed), writer
        )
    write_rows(rows, TABLES["actor"], output)
    return _outcome(rows, "reward", personal, writer)
