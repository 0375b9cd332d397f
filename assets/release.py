"""Evaluation, and the release that people use where its gate lets it through."""

import dagster as dg

from assets.making import Results, make, run_stage, stage_asset
from assets.specs import pipeline_asset
from chatllama_pipeline.lineage.verdict import release_verdict
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource

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
    run_options: RunOptions,
) -> Results:
    """The assistant as a plain Hugging Face folder; held back, the one before stays."""
    versions = store.of_run(context, run_options)
    assistant = versions.assistant
    verdict = release_verdict(versions, assistant)
    if not verdict.released and "release" not in assistant.settings.store.pins:
        context.log.warning(f"HELD BACK: {verdict.reason}")
        return
    yield from make(context, compute, store, run_options, run_stage)
