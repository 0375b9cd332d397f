"""The evaluation as one HTML page that needs nothing beside it: no network, no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from chatllama_pipeline.data.feedback.figures import Said
from chatllama_pipeline.evaluation.curves import interval_chart, line_chart
from chatllama_pipeline.evaluation.figures import (
    ActorFigures,
    Comparison,
    Evaluation,
    Figures,
    OverRelease,
)
from chatllama_pipeline.pages import page_environment
from chatllama_pipeline.records import Curve
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.reward.report import RewardReport
from chatllama_pipeline.training.terms import RAW
from chatllama_pipeline.training.terms.cheats import CheatsReport
from chatllama_pipeline.training.watching.report import WatchReport

NOT_MEASURED = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Chart:
    """One chart: curves of one stage over the same steps; `lowest` is shown on the value axis."""

    title: str
    caption: str
    stage: str
    curves: tuple[str, ...]
    lowest: float | None = None


CHARTS = (
    Chart("SFT loss", "nats, by step", "actor_sft", ("loss", "validation_loss"), 0.0),
    Chart(
        "Reward model accuracy",
        "validation pairs, by step",
        "reward_model",
        ("validation_accuracy",),
        0.5,
    ),
    Chart("PPO reward", "mean normalised score, by iteration", "actor_ppo", ("score",)),
    Chart(
        "Reward against judge",
        "means on held-out prompts, by iteration",
        "actor_ppo",
        ("watched_reward", "watched_judge"),
        0.0,
    ),
    Chart("KL", "nats per reply from SFT, by iteration", "actor_ppo", ("kl", "watched_kl"), 0.0),
    Chart("Rubric during PPO", "mean of judge / 5, by iteration", "actor_ppo", ("rubric",), 0.0),
    Chart(
        "Reply length",
        "tokens, by PPO iteration",
        "actor_ppo",
        ("reply_tokens", "watched_reply_tokens"),
        0.0,
    ),
    Chart(
        "Variety",
        "different bigrams, and runs of 4 tokens that a reply repeats, by iteration",
        "actor_ppo",
        ("watched_distinct_2", "watched_repeated"),
        0.0,
    ),
)


@dataclass(frozen=True)
class _Measure:
    name: str
    before: str
    after: str
    change: str


@dataclass(frozen=True)
class _DrawnChart:
    title: str
    caption: str
    names: list[str]
    picture: Markup


@dataclass(frozen=True)
class _Section:
    title: str
    rows: list[Comparison]


def render(
    assistant: str,
    settings: AssistantSettings,
    judge: str | None,
    evaluation: Evaluation,
    curves: Mapping[str, Sequence[Curve]],
    comparisons: Sequence[Comparison],
    reward_report: RewardReport | None = None,
    said: Said | None = None,
    cheats: CheatsReport | None = None,
    watched: WatchReport | None = None,
) -> str:
    """The page. `curves` maps a stage to its curves; `judge` is None where nobody judged, `said`
    where nobody said a word of the release in use, `cheats` where none were tried,
    `watched` where no judge looked on."""
    environment = page_environment(Path(__file__).parent)
    figures, objective = evaluation.figures, settings.reward_config.objective
    return environment.get_template("report.html.jinja").render(
        assistant=assistant,
        verdict=evaluation.verdict,
        figures=figures,
        judge=judge,
        judge_taught=_judge_taught(settings),
        objective=objective,
        interval=_interval(figures, settings.release.min_win_rate),
        over_interval=_interval(figures.over_release, settings.release.min_win_rate_over_release),
        rated_interval=_interval(figures.on_feedback, settings.release.min_win_rate_over_release),
        said=said,
        measures=_measures(figures.actor_sft, figures.actor_ppo),
        facts=_facts(figures),
        charts=_charts(curves),
        reward_report=reward_report,
        cheats=cheats,
        watched=watched,
        followed=watched.samples[: settings.evaluation.table_rows // 2] if watched else [],
        sections=select(comparisons, settings.evaluation.table_rows),
    )


def _judge_taught(settings: AssistantSettings) -> bool:
    """Whether the judge of the replies also gave the scores that the reward model learnt from."""
    compares, scored = settings.role("evaluation_judge"), settings.role("judge")
    same = (compares.provider, compares.model) == (scored.provider, scored.model)
    return same and scored.provider != "none" and settings.reward_config.objective != "pairwise"


def select(comparisons: Sequence[Comparison], most: int) -> list[_Section]:
    """The largest gains, typical rows and the largest losses: `most` in all, none twice."""
    ordered = sorted(range(len(comparisons)), key=lambda row: (-comparisons[row].gain, row))
    most = min(most, len(ordered))
    extremes = most // 3
    middle = most - 2 * extremes
    start = (len(ordered) - middle) // 2
    parts = [
        ("Replies: largest gains", ordered[:extremes]),
        ("Replies: typical", ordered[start : start + middle]),
        ("Replies: largest losses", ordered[::-1][:extremes]),
    ]
    return [_Section(title, [comparisons[row] for row in rows]) for title, rows in parts if rows]


def _measures(before: ActorFigures, after: ActorFigures) -> list[_Measure]:
    rows = [
        ("Rubric score, 0 to 1", before.rubric_score, after.rubric_score, ".3f"),
        ("Names the item asked about", before.names_item, after.names_item, ".1%"),
        ("Reward", before.reward, after.reward, ".3f"),
        ("Length in tokens", before.reply_tokens, after.reply_tokens, ".1f"),
        ("Finished", before.share_finished, after.share_finished, ".1%"),
        ("Distinct bigrams", before.distinct_2, after.distinct_2, ".3f"),
    ]
    return [
        _Measure(
            name,
            _shown(old, spec),
            _shown(new, spec),
            _change(old, new, spec),
        )
        for name, old, new, spec in rows
    ]


def _facts(figures: Figures) -> list[tuple[str, str]]:
    known = figures.known_answers
    answers = [("Known answers", str(known))] if known else []
    people = figures.with_people
    if people is not None and people.share is not None:
        told = f"The judge says what people say, of {people.votes:,} votes"
        answers.append((told, _shown(people.share, ".1%")))
    return [
        ("KL from SFT, nats per reply", _shown(figures.kl, ".2f")),
        ("SFT validation loss", _shown(figures.sft_validation_loss, ".3f")),
        (
            f"Reward model right, of {figures.reward_model_pairs:,} unseen pairs",
            _shown(figures.reward_model_accuracy, ".1%"),
        ),
        *answers,
    ]


def _shown(value: float | None, spec: str) -> str:
    if value is None:
        return NOT_MEASURED
    return format(value, spec).replace("%", "\N{NO-BREAK SPACE}%").replace("-", MINUS)


def _change(old: float | None, new: float | None, spec: str) -> str:
    if old is None or new is None:
        return NOT_MEASURED
    if spec.endswith("%"):
        return _shown(100 * (new - old), "+.1f") + " points"
    return _shown(new - old, "+" + spec)


def _interval(figures: Figures | OverRelease | None, threshold: float) -> Markup | None:
    if figures is None:
        return None
    low, middle, high = figures.win_rate_low, figures.win_rate, figures.win_rate_high
    if low is None or middle is None or high is None:
        return None
    return Markup(interval_chart(low, middle, high, threshold))


def _charts(curves: Mapping[str, Sequence[Curve]]) -> list[_DrawnChart]:
    drawn = []
    for chart in (*CHARTS, *_of_terms(curves.get("actor_ppo", ()))):
        named = {curve.name: curve for curve in curves.get(chart.stage, ())}
        shown = [named[name] for name in chart.curves if name in named and _drawable(named[name])]
        if shown:
            names = [curve.name.replace("_", " ") for curve in shown]
            picture = Markup(line_chart(shown, lowest=chart.lowest))
            drawn.append(_DrawnChart(chart.title, chart.caption, names, picture))
    return drawn


def _of_terms(curves: Sequence[Curve]) -> list[Chart]:
    """A chart for each term of a reward that has several, in the term's own units."""
    names = [curve.name for curve in curves if curve.name.startswith(RAW)]
    caption = "mean of what it gave, by iteration"
    return [Chart(f"Paid: {name[len(RAW) :]}", caption, "actor_ppo", (name,)) for name in names]


def _drawable(curve: Curve) -> bool:
    return any(math.isfinite(value) for _, value in curve.points)
