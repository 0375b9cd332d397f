"""`feedback`: what people said of an assistant's replies, as tables that trainings read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chatllama_pipeline.data.feedback.figures import Sides, figures_of
from chatllama_pipeline.data.feedback.rows import SCHEMAS, placed, tables_of
from chatllama_pipeline.data.feedback.words import (
    agreed,
    fit_words,
    last_words,
    within_share,
    words_of,
)
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.grammar.rows import read_question
from chatllama_pipeline.data.patterns import redact_rows
from chatllama_pipeline.data.tables import write_rows
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.feedback import Entry


def build_feedback(entries: Sequence[Entry], settings: AssistantSettings, output: Path) -> Outcome:
    """Write the tables of `SCHEMAS`, each row with its side, `funnel.json` by kind of rating, and
    `feedback.json` with what was said of each version.

    Raises DataError for an entry that can't be read.
    """
    funnel = Funnel()
    words = words_of(entries)
    for word in words:
        funnel.read(word.rating.kind)
    fit = fit_words(words, funnel, _read_by_rules if _rules_judge(settings) else None)
    latest = last_words(fit, funnel)
    kept, contradictions = agreed(within_share(latest, settings.feedback.max_share, funnel), funnel)
    sides = placed(kept, settings.data, settings.feedback.test_share)
    for word, place in zip(kept, sides, strict=True):
        if place is None:
            funnel.drop(word.rating.kind, "near_repeat")
    learned = [place for place in sides if place is not None]
    tables, redacted = tables_of(learned), Counter[str]()
    for file, schema in SCHEMAS.items():
        rows, counts = redact_rows(tables[file], schema, settings.data.redact)
        redacted += counts
        write_rows(rows, schema, output, file)
    funnel.write(output)
    held_out = sum(place.split == "test" for place in learned)
    figures = figures_of(latest, held_out, contradictions, settings.data.redact)
    figures.write(output)
    metrics = {
        "ratings": figures.ratings,
        "visits": figures.visits,
        "held_out": held_out,
        "contradictions": contradictions,
        "left_share": figures.sides.left_share,
        "rows": {file.removesuffix(".parquet"): len(rows) for file, rows in tables.items()},
        "dropped": funnel.dropped(),
        "redacted": dict(redacted),
    }
    return Outcome(rows=len(learned), metrics=metrics, checks=[_side_check(figures.sides)])


def _rules_judge(settings: AssistantSettings) -> bool:
    """Whether a judge knows the grammar alone: it would refuse what people ask beside it."""
    return "rules" in (settings.role("judge").provider, settings.judge)


def _read_by_rules(text: str) -> bool:
    return read_question(text) is not None


def _side_check(sides: Sides) -> Check:
    told = str(sides)
    if sides.decide:
        told += ": the side decides; show the replies on sides at random"
    share = 0.5 if sides.left_share is None else sides.left_share
    return Check("position_bias", not sides.decide, False, share, 0.5, told)
