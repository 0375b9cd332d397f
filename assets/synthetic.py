"""Synthetic data: what a writer writes from the assistant's templates and examples."""

import dagster as dg

from assets.making import Results, Work, make
from assets.specs import pipeline_asset
from chatllama_pipeline.llm.synthetic import build_synthetic
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


def _write(context: dg.AssetExecutionContext, compute: Compute, work: Work) -> Outcome:
    asset = context.asset_key.to_user_string()
    with compute.machine(context, work.settings.role("writer")) as machine:
        return build_synthetic(
            asset,
            work.folder("personal_data"),
            work.settings,
            work.output,
            work.bench.run_folder,
            Progress(asset, context.log.info),
            machine,
        )


@pipeline_asset("synthetic_conversations", "synthetic", "python", "parquet")
def synthetic_conversations(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """Questions with good replies, for the actor to imitate."""
    yield from make(context, store, run_options, lambda work: _write(context, compute, work))


@pipeline_asset("synthetic_prompts", "synthetic", "python", "parquet")
def synthetic_prompts(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """Questions alone, for PPO to practise on."""
    yield from make(context, store, run_options, lambda work: _write(context, compute, work))


@pipeline_asset("synthetic_completions", "synthetic", "python", "parquet")
def synthetic_completions(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """Replies of several qualities, unscored, for the judge."""
    yield from make(context, store, run_options, lambda work: _write(context, compute, work))
