"""Evaluation, and the release that people use where its gate lets it through."""

import warnings
from datetime import UTC, datetime

import dagster as dg

from assets.partitions import ASSISTANTS
from assets.specs import Results, pipeline_asset, stage_asset
from chatllama_pipeline.lineage.history.freshness import RELEASE, Freshness, release_freshness
from chatllama_pipeline.settings.folder import load_assistant
from resources.compute import Compute
from resources.notices import Notice, tell
from resources.run_options import RunOptions
from resources.store import StoreResource

FRESH = "fresh"
# Figures of the evaluation that a notice tells.
TOLD_FIGURES = ("win_rate", "over_release.win_rate", "on_feedback.win_rate", "kl")

evaluation = stage_asset(
    "evaluation",
    group="evaluation",
    kinds=("pytorch", "html"),
    description="SFT against PPO on test prompts, with the verdict of the release gate.",
)


@pipeline_asset("release", "release", ("huggingface", "safetensors"), output_required=False)
def release(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: dg.ResourceParam[RunOptions],
) -> Results:
    """The assistant as a plain Hugging Face folder; held back, the one before stays."""
    from assets.runs.making import make, run_stage, run_store
    from chatllama_pipeline.lineage.recipes import read_in_use
    from chatllama_pipeline.lineage.verdict import release_verdict

    versions = run_store(context, store, run_options)
    assistant = versions.assistant
    verdict = release_verdict(versions, assistant)
    metrics = read_in_use("evaluation", assistant, versions).manifest.metrics
    figures = {name: metrics[name] for name in TOLD_FIGURES if name in metrics}
    if not verdict.released and RELEASE not in assistant.settings.store.pins:
        context.log.warning(f"HELD BACK: {verdict.reason}")
        notice = Notice("held_back", assistant.name, verdict.reason, context.run_id, "", figures)
        if not versions.begun.experiment:
            tell(notice, context.log.warning)
        return
    # What stands for all: an experiment's release is nobody's news.
    before = versions.standing(RELEASE, assistant.name)
    yield from make(context, compute, store, run_options, run_stage)
    after = versions.standing(RELEASE, assistant.name)
    if after is not None and (before is None or before.version != after.version):
        reason, version = verdict.reason, after.version
        notice = Notice("released", assistant.name, reason, context.run_id, version, figures)
        tell(notice, context.log.warning)


def _fresh(context: dg.AssetCheckExecutionContext, store: StoreResource) -> dg.AssetCheckResult:
    """The release is no older than 1.5 of its assistant's own retraining interval."""
    assistant = load_assistant(context.partition_key)
    return fresh_result(release_freshness(assistant, store.open(), datetime.now(UTC)))


def fresh_result(found: Freshness) -> dg.AssetCheckResult:
    """A release's freshness as the check `fresh` tells it."""
    return dg.AssetCheckResult(
        passed=found.fresh,
        severity=dg.AssetCheckSeverity.WARN,
        description=found.told,
        metadata={"value": found.hours, "limit": found.most_hours},
    )


with warnings.catch_warnings():
    # Partitions of checks are a preview of Dagster's; without them results mix.
    warnings.filterwarnings("ignore", ".*partitions_def.*")
    fresh = dg.asset_check(
        asset=RELEASE,
        name=FRESH,
        description="The release is no older than 1.5 of its assistant's own interval "
        "(retrain.cron); the sensor `old_releases` looks every hour.",
        partitions_def=ASSISTANTS,
    )(_fresh)
