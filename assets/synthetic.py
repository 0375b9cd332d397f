"""Synthetic data: what a writer writes from the assistant's templates and examples."""

import dagster as dg

from assets.making import Results, make
from assets.partitions import ASSISTANTS
from assets.specs import OWNERS, asset_checks
from chatllama_pipeline.llm.synthetic import (
    build_synthetic_completions,
    build_synthetic_conversations,
    build_synthetic_prompts,
)
from chatllama_pipeline.recipes import CODE_VERSION
from resources.run_options import RunOptions
from resources.store import StoreResource


@dg.asset(
    deps=["personal_data"],
    partitions_def=ASSISTANTS,
    group_name="synthetic",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["synthetic_conversations"],
    check_specs=asset_checks("synthetic_conversations"),
)
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


@dg.asset(
    deps=["personal_data"],
    partitions_def=ASSISTANTS,
    group_name="synthetic",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["synthetic_prompts"],
    check_specs=asset_checks("synthetic_prompts"),
)
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


@dg.asset(
    deps=["personal_data"],
    partitions_def=ASSISTANTS,
    group_name="synthetic",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["synthetic_completions"],
    check_specs=asset_checks("synthetic_completions"),
)
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
