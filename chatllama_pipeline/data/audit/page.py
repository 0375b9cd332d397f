"""The audit as one HTML page that needs nothing beside it: no network, no scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from chatllama_pipeline.data.audit.charts import histogram, kept_bar
from chatllama_pipeline.data.audit.figures import Audit, TableFigures
from chatllama_pipeline.data.audit.lengths import SAMPLED_ROWS, Lengths
from chatllama_pipeline.data.feedback.figures import FeedbackFigures
from chatllama_pipeline.data.sources.catalog import SOURCES
from chatllama_pipeline.pages import page_environment
from chatllama_pipeline.records import Check
from chatllama_pipeline.settings import AssistantSettings

TITLES = {
    "preference_data": "Preference pairs",
    "actor_training_data": "Actor conversations",
    "rlhf_training_data": "PPO prompts",
    "reward_training_data": "Scored replies",
    "feedback": "Ratings",
}
KIND_NAMES = {
    "email": "E-mail addresses",
    "phone": "Phone numbers",
    "key": "Keys and tokens",
    "card": "Card numbers",
    "iban": "IBANs",
}
_CHECKS = {
    "split_overlap": "Splits stay apart",
    "near_duplicates": "Rows are distinct",
    "alike_pairs": "Replies of a pair differ",
    "length_only_held_out": "Length alone decides little",
    "personal_data": "Personal data",
    "unread_files": "All your files are read",
}
# What is drawn of each table: (title, parts).
_DRAWN = (
    ("preference_data", "Prompts of the pairs", ("prompt",)),
    ("preference_data", "Replies of the pairs", ("chosen", "rejected")),
    ("actor_training_data", "Replies that the actor imitates", ("completion",)),
    ("rlhf_training_data", "Prompts that PPO practises on", ("prompt",)),
    ("reward_training_data", "Scored replies", ("completion",)),
)


@dataclass(frozen=True)
class _FunnelRow:
    source: str
    read: int
    valid: int
    kept: int
    bar: Markup
    reasons: list[tuple[str, int]]


@dataclass(frozen=True)
class _Funnel:
    title: str
    name: str
    rows: list[_FunnelRow]


@dataclass(frozen=True)
class _Drawn:
    title: str
    told: list[tuple[str, str]]
    picture: Markup


def render(
    assistant: str,
    settings: AssistantSettings,
    audit: Audit,
    checks: Sequence[Check],
    said: FeedbackFigures | None = None,
) -> str:
    """The page of an audit; `said` is what people said of replies, if anything."""
    environment = page_environment(Path(__file__).parent)
    environment.filters |= {"thousands": _thousands, "percent": _percent}
    overlap = {found.table: found for found in audit.overlaps}
    return environment.get_template("page.html.jinja").render(
        assistant=assistant,
        audit=audit,
        pairs=audit.pairs,
        said=said,
        findings=[(_CHECKS[check.name], check) for check in checks],
        funnels=_funnels(audit.funnels),
        tables=[(TITLES[table.name], table, overlap[table.name]) for table in audit.tables],
        titles=TITLES,
        charts=_charts(audit.tables),
        token_charts=_token_charts(audit.tables),
        sampled_rows=SAMPLED_ROWS,
        reward_limit=settings.reward_config.max_sequence_length,
        kinds=[
            (name, audit.matches.get(kind, 0), audit.texts.get(kind, 0), audit.examples.get(kind))
            for kind, name in KIND_NAMES.items()
        ],
        redacted=[KIND_NAMES[kind] for kind in settings.data.redact],
        replies=audit.tables[1].replies,
        too_long=[
            (TITLES[table.name], table.tokens) for table in audit.tables if table.tokens is not None
        ],
    )


def _thousands(value: int) -> str:
    return f"{value:,}"


def _percent(value: float) -> str:
    return f"{value:.1%}".replace("%", "\N{NO-BREAK SPACE}%")


def _funnels(funnels: Mapping[str, dict[str, dict[str, Any]]]) -> list[_Funnel]:
    found = []
    for name, sources in funnels.items():
        most = max((counts["read"] for counts in sources.values()), default=0)
        rows = [_funnel_row(source, counts, most) for source, counts in sources.items()]
        title = TITLES.get(name) or f"Source: {SOURCES[name].title}"
        if rows:
            found.append(_Funnel(title, name, rows))
    return found


def _funnel_row(source: str, counts: Mapping[str, Any], most: int) -> _FunnelRow:
    read, valid, kept = counts["read"], counts["valid"], counts["kept"]
    reasons = sorted(counts["dropped"].items(), key=lambda item: (-item[1], item[0]))
    return _FunnelRow(
        source=source,
        read=read,
        valid=valid,
        kept=kept,
        bar=Markup(kept_bar(read, valid, kept, most)),
        reasons=[(reason.replace("_", " "), count) for reason, count in reasons],
    )


def _charts(tables: list[TableFigures]) -> list[_Drawn]:
    by_name = {table.name: table for table in tables}
    drawn = [
        _draw(title, [(part, by_name[name].characters[part]) for part in parts])
        for name, title, parts in _DRAWN
    ]
    return [chart for chart in drawn if chart is not None]


def _token_charts(tables: list[TableFigures]) -> list[_Drawn]:
    by_name = {table.name: table.tokens for table in tables}
    drawn = [
        _draw(title, [(part, tokens.lengths[part]) for part in parts])
        for name, title, parts in _DRAWN
        if (tokens := by_name[name]) is not None
    ]
    return [chart for chart in drawn if chart is not None]


def _draw(title: str, series: list[tuple[str, Lengths]]) -> _Drawn | None:
    series = [(name, lengths) for name, lengths in series if lengths.rows]
    if not series:
        return None
    told = [
        (
            name if len(series) > 1 else "",
            f"median {_thousands(lengths.median)}, 95 % up to {_thousands(lengths.most_of)}, "
            f"longest {_thousands(lengths.longest)}",
        )
        for name, lengths in series
    ]
    return _Drawn(title, told, Markup(histogram(series)))
