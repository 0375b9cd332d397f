"""`reward_training_data`: replies with a score 0..5, given by the judge where none stands."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from chatllama_pipeline.data.checks import leak_check, schema_check
from chatllama_pipeline.data.feedback.rows import SCORED_FILE
from chatllama_pipeline.data.own.personal import TEMPLATES_FILE
from chatllama_pipeline.data.prepare.datasets import Rows, said_rows, write_dataset
from chatllama_pipeline.data.prepare.thumbs import scored_rows
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import as_prompt, read_first, read_rows
from chatllama_pipeline.llm.judge.agreement import (
    Agreement,
    agreement_by_comparison,
    agreement_by_scores,
    agreement_check,
)
from chatllama_pipeline.llm.judge.questions import Judgement, LlmJudge, Preference
from chatllama_pipeline.llm.judge.readable import cures, listed_reasons, readable_check
from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.plans import estimate_lines, plan_judging
from chatllama_pipeline.llm.providers import Judge, open_judge
from chatllama_pipeline.llm.templates import Template, load_templates
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.schemas import REWARD_SCHEMA, REWARD_SCHEMA_WITH_THUMBS
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.section import told_paths

DATASET = "reward_training_data"
SET_ASIDE_FILE = "set_aside.jsonl"
JUDGEMENTS_FILE = "judgements.jsonl"
NO_JUDGE = "no_judge"
_TOLD_CHARACTERS = 120


@dataclass
class _Scored:
    """Rows with scores, those set aside with their reasons, and what the judge said of each."""

    rows: list[Row] = field(default_factory=list)
    aside: list[tuple[Row, Judgement]] = field(default_factory=list)
    judged: list[tuple[Row, Judgement]] = field(default_factory=list)
    agreement: Agreement | None = None
    ledger: dict[str, Any] = field(default_factory=dict)
    compared: list[Preference] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def verdicts(self) -> int:
        """How many the judge was asked for: scores and comparisons."""
        return len(self.judged) + len(self.compared)

    @property
    def unread(self) -> dict[str, int]:
        """How many of them could not be read, by reason."""
        scores = [one.reason for _, one in self.judged if one.score is None]
        choices = [one.reason for one in self.compared if one.second_wins is None]
        return dict(Counter([*scores, *choices]).most_common())

    @property
    def reasons(self) -> dict[str, int]:
        return dict(Counter(judgement.reason for _, judgement in self.aside).most_common())

    def take(self, rows: Sequence[Row], judgements: Sequence[Judgement]) -> None:
        for row, judgement in zip(rows, judgements, strict=True):
            self.judged.append((row, judgement))
            if judgement.score is None:
                self.aside.append((row, judgement))
            else:
                self.rows.append({**row, "score": judgement.score})


def _score(
    rows: list[Row],
    pairs: list[Row],
    judge: Judge | None,
    settings: AssistantSettings,
    progress: Progress | None,
) -> _Scored:
    """Every row and every reply of `pairs` with a score, wherever the judge could give one."""
    found = _Scored(rows=[row for row in rows if row["score"] is not None])
    unscored = [row for row in rows if row["score"] is None]
    if judge is None:
        found.aside = [(row, Judgement(None, (), NO_JUDGE)) for row in unscored]
        return found
    compares = isinstance(judge, LlmJudge) and settings.llm.agreement_by == "pairwise"
    replies = [] if compares else [reply for pair in pairs for reply in _both_replies(pair)]
    trios = [(as_prompt(p["prompt"]), p["rejected"], p["chosen"]) for p in pairs if compares]
    asked, samples = [*unscored, *replies], settings.llm.judge_samples
    texts = [(as_prompt(row["prompt"]), row["completion"]) for row in asked]
    if progress and isinstance(judge, LlmJudge):
        plan = plan_judging(judge, texts, trios, samples)
        for line in estimate_lines(judge.client, plan, settings.llm.max_usd):
            progress.say(line)
    step = progress.step if progress else None
    judgements = judge.score_all(texts, samples, step)
    found.take(asked, judgements)
    found.agreement = agreement_by_scores(judgements[len(unscored) :], settings.seed)
    if isinstance(judge, LlmJudge):
        if compares:
            found.compared = judge.compare(trios, step)
            found.agreement = agreement_by_comparison(found.compared, settings.seed)
        found.told = judge.client.warnings()
        found.ledger = judge.client.ledger().metrics()
    return found


def _both_replies(pair: Row) -> list[Row]:
    shared = {"prompt": pair["prompt"], "source": pair["source"], "score": None}
    return [{**shared, "completion": pair[side]} for side in ("chosen", "rejected")]


def _enough_rows(row_count: int, found: _Scored, settings: AssistantSettings) -> Check:
    least = settings.checks.min_reward_rows
    enough = row_count >= least
    unneeded = settings.reward_config.objective == "pairwise"
    if enough:
        told = f"{row_count} scored rows"
    elif unneeded:
        told = f"{row_count} scored rows; reward_config.objective is pairwise, which needs none"
    else:
        told = (
            f"{row_count} scored rows, and {least} are needed: put more into "
            f"{told_paths(settings.reward_config.train_dataset_path)}, set "
            "llm.synthetic_completions or llm.scored_pairs with an llm.provider, or set "
            "reward_config.objective to pairwise"
        )
        if found.aside:
            told += f"; {_told_aside(found)}"
    return Check("enough_rows", enough or unneeded, True, row_count, least, told)


def _told_aside(found: _Scored) -> str:
    """How many rows were set aside, why, and what was said of the first."""
    count, (_, first) = len(found.aside), found.aside[0]
    if first.reason == NO_JUDGE:
        return f"{count} rows without a score were set aside, since nobody judges (llm.provider)"
    said = first.raw.strip()[:_TOLD_CHARACTERS]
    return (
        f"{count} rows were set aside ({listed_reasons(found.reasons)}); of the first it was said: "
        f"{said!r}{cures(found.reasons, 'llm.judge')}"
    )


def build_reward_training_data(
    preference: Path,
    synthetic_completions: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    run_folder: Path | None = None,
    progress: Progress | None = None,
    machine: Machine | None = None,
    feedback: Path | None = None,
) -> Outcome:
    """Write scored replies, and `reward_training_data.json`.

    A score that stands is kept, 0 included; a thumb is one, and the table says so where the user's
    own files hold thumbs (of `feedback` all are). What nobody could score
    trains nothing and stands in `set_aside.jsonl` with what was answered; `judgements.jsonl` holds
    all that an LLM judged. Raises ProviderError for a row that `rules` refuses to judge.
    """
    template = load_templates(personal)["reward"]
    unjudged = [{**row, "score": None} for row in read_rows(synthetic_completions)]
    chosen = read_first(preference, "train", settings.llm.scored_pairs)
    own, contradicted = scored_rows(personal)
    role = settings.role("judge")
    with open_judge(role, template, run_folder or output, machine) as judge:
        found = _score(own + unjudged, chosen, judge, settings, progress)
        by_llm = isinstance(judge, LlmJudge)
        name = judge.name if judge else ""
    aside = [row for row, _ in found.aside]
    sources, schema = _to_write(found.rows, said_rows(feedback, SCORED_FILE))
    given = (preference, personal, settings, output)
    written = write_dataset(DATASET, sources, *given, feedback=feedback, schema=schema)
    funnel = written.prepared.funnel
    for left_out, reason in ((aside, "unscored"), (contradicted, "contradiction")):
        funnel.read_rows(left_out)
        funnel.drop_rows(left_out, reason)
    funnel.write(output)
    _write_lines(output / SET_ASIDE_FILE, found.aside, name, template)
    if by_llm:
        _write_lines(output / JUDGEMENTS_FILE, found.judged, name, template)
    checks = [
        schema_check(written.faults),
        _enough_rows(written.rows, found, settings),
        leak_check(written.prepared.leaked()),
        agreement_check(found.agreement, settings.checks.min_judge_agreement),
        readable_check(
            found.verdicts if by_llm else 0,
            found.unread if by_llm else {},
            settings.checks.max_judge_unread,
            "llm.judge",
        ),
    ]
    metrics = {
        **written.metrics(),
        "judged_rows": len(found.judged),
        "set_aside": found.reasons,
        **(found.agreement.metrics() if found.agreement else {}),
        **found.ledger,
    }
    warnings = _warnings(found, by_llm, settings, template)
    return Outcome(rows=written.rows, metrics=metrics, checks=checks, warnings=warnings)


def _to_write(scored: list[Row], rated: list[Rows]) -> tuple[list[Rows], pa.Schema]:
    """All rows, `rated` ones of feedback among them, and the columns of their table."""
    has_thumbs = any(row.get("thumb") for row in scored)
    schema = REWARD_SCHEMA_WITH_THUMBS if has_thumbs else REWARD_SCHEMA
    before_sides = pa.schema([field for field in schema if field.name != "split"])
    listed = [{"thumb": False, **row} for row in scored]
    table = pa.Table.from_pylist(listed, schema=before_sides)
    if has_thumbs:
        rated = [replace(rows, batches=partial(_as_thumbs, rows.batches)) for rows in rated]
    return [Rows(lambda: [table], table.num_rows), *rated], schema


def _as_thumbs(batches: Callable[[], Iterable[pa.Table]]) -> Iterator[pa.Table]:
    for batch in batches():
        yield batch.append_column("thumb", pa.array([True] * batch.num_rows, pa.bool_()))


def _warnings(
    found: _Scored, by_llm: bool, settings: AssistantSettings, template: Template
) -> list[str]:
    told = [*found.told]
    if by_llm and found.aside:
        told.append(
            f"{_told_aside(found)}; {SET_ASIDE_FILE} lists them. force: [reward_training_data] in "
            "run_options asks again for those that got no answer"
        )
    provider = settings.role("judge").provider
    if template.own and provider in ("rules", "rubric"):
        told.append(f"{TEMPLATES_FILE}: 'reward' has no effect, {provider} scores by points")
    return told


def _write_lines(
    path: Path, judged: Sequence[tuple[Row, Judgement]], judge: str, template: Template
) -> None:
    """One judged row a line; no file without rows."""
    if not judged:
        return
    with path.open("w", encoding="utf-8") as lines:
        for row, judgement in judged:
            listed = {
                "prompt": row["prompt"],
                "completion": row["completion"],
                "source": row["source"],
                "score": judgement.score,
                "spread": judgement.spread,
                "samples": judgement.samples,
                "reason": judgement.reason,
                "raw": judgement.raw,
                "judge": judge,
                "template": template.hash,
            }
            lines.write(json.dumps(listed, ensure_ascii=False) + "\n")
