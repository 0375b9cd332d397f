"""`reward_training_data`: replies with a score 0..5, given by the judge where none stands."""

from __future__ import annotations

from pathlib import Path

from chatllama_pipeline.data.checks import leak_check, schema_check, schema_faults
from chatllama_pipeline.data.datasets import held_out_in, settle
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.splits import Row, counts
from chatllama_pipeline.data.tables import as_prompt, read_rows, write_original, write_rows
from chatllama_pipeline.llm.providers import Judge, open_judge
from chatllama_pipeline.records import REWARD_SCHEMA, Check, Outcome
from chatllama_pipeline.settings import AssistantSettings


def _score(rows: list[Row], judge: Judge | None) -> tuple[list[Row], list[Row]]:
    """Rows with a score, and those set aside because nobody could score them."""
    if judge is None:
        scored = [row for row in rows if row["score"] is not None]
        return scored, [row for row in rows if row["score"] is None]
    scored = [
        row
        if row["score"] is not None
        else {**row, "score": judge.score(as_prompt(row["prompt"]), row["completion"])}
        for row in rows
    ]
    return scored, []


def _score_pairs(
    pairs: list[Row], judge: Judge | None, count: int
) -> tuple[list[Row], float | None]:
    """Both replies of the first `count` training pairs, scored; how often the judge prefers the
    reply that people chose (ties half), None if nothing was judged."""
    training = [pair for pair in pairs if pair["split"] == "train"][:count]
    if judge is None or not training:
        return [], None
    rows: list[Row] = []
    agreed = 0.0
    for pair in training:
        chosen, rejected = (
            judge.score(as_prompt(pair["prompt"]), pair[side]) for side in ("chosen", "rejected")
        )
        agreed += 0.5 if chosen == rejected else float(chosen > rejected)
        shared = {"prompt": pair["prompt"], "source": pair["source"]}
        rows += [
            {**shared, "completion": pair["chosen"], "score": chosen},
            {**shared, "completion": pair["rejected"], "score": rejected},
        ]
    return rows, agreed / len(training)


def _enough_rows(row_count: int, unscored: int, settings: AssistantSettings) -> Check:
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
            f"{settings.reward_config.train_dataset_path}, set llm.synthetic_completions or "
            "llm.scored_pairs with an llm.provider, or set reward_config.objective to pairwise"
        )
        if unscored:
            told += f"; {unscored} rows without a score were set aside, since llm.provider is none"
    return Check("enough_rows", enough or unneeded, True, row_count, least, told)


def _judge_agreement(agreement: float | None, limit: float) -> Check:
    if agreement is None:
        told = "not measured: it takes an llm.provider, llm.scored_pairs and preference pairs"
        return Check("judge_agreement", True, False, 0.0, limit, told)
    told = f"the judge prefers the reply that people chose in {agreement:.0%} of the pairs"
    return Check("judge_agreement", agreement >= limit, False, agreement, limit, told)


def build_reward_training_data(
    preference: Path,
    synthetic_completions: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
) -> Outcome:
    """Write scored replies, and `reward_training_data.json`.

    A score that stands is kept, 0 included. Raises ProviderError for a row that the provider
    refuses to judge.
    """
    judge = open_judge(settings.llm.provider)
    unjudged = [{**row, "score": None} for row in read_rows(synthetic_completions)]
    scored, unscored = _score(read_rows(personal, "reward.parquet") + unjudged, judge)
    pairs = read_rows(preference)
    judged, agreement = _score_pairs(pairs, judge, settings.llm.scored_pairs)
    held_out = held_out_in(pairs, personal, settings)
    funnel = Funnel()
    funnel.read_rows(scored + unscored + judged)
    funnel.drop_rows(unscored, "unscored")
    kept = settle(scored + judged, ("prompt", "completion"), held_out, settings, funnel)
    write_rows(kept, REWARD_SCHEMA, output)
    write_original(kept, ("completion", "score"), output / "reward_training_data.json")
    funnel.write(output)
    checks = [
        schema_check(schema_faults(kept, REWARD_SCHEMA)),
        _enough_rows(len(kept), len(unscored), settings),
        leak_check(kept),
        _judge_agreement(agreement, settings.checks.min_judge_agreement),
    ]
    metrics = {
        "rows": counts(kept),
        "dropped": funnel.dropped(),
        "judged_rows": len(unjudged) + len(judged) if judge else 0,
    }
    return Outcome(rows=len(kept), metrics=metrics, checks=checks)
