"""Synthetic data: what a writer writes from the assistant's templates and examples."""

import dagster as dg

from assets.making import Results, make
from assets.specs import pipeline_asset
from chatllama_pipeline.llm.synthetic import (
    build_synthetic_completions,
    build_synthetic_conversations,
    build_synthetic_prompts,
)
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("synthetic_conversations", "synthetic", "python", "parquet")
def synthetic_conversations(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Questions with good replies, for the actor to imitate."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_synthetic_conversations(
            work.folder("personal_data"), work.settings, work.output
        ),
    )


@pipeline_asset("synthetic_prompts", "synthetic", "python", "parquet")
def synthetic_prompts(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Questions alone, for PPO to practise on."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_synthetic_prompts(
            work.folder("personal_data"), work.settings, work.output
        ),
    )


@pipeline_asset("synthetic_completions", "synthetic", "python", "parquet")
def synthetic_completions(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Replies of several qualities, unscored, for the judge."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_synthetic_completions(
            work.folder("personal_data"), work.settings, work.output
        ),
    )
