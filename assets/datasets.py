"""The preference pairs, and ChatLLaMA's actor and RLHF datasets."""

import dagster as dg

from assets.making import Results, make
from assets.partitions import ASSISTANTS
from assets.specs import OWNERS, asset_checks
from chatllama_pipeline.data.datasets import (
    build_actor_training_data,
    build_preference_data,
    build_rlhf_training_data,
)
from chatllama_pipeline.recipes import CODE_VERSION, UPSTREAM
from resources.run_options import RunOptions
from resources.store import StoreResource


@dg.asset(
    deps=UPSTREAM["preference_data"],
    partitions_def=ASSISTANTS,
    group_name="data",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["preference_data"],
    check_specs=asset_checks("preference_data"),
)
def preference_data(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """Pairs of replies, the better one named, split by prompt."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_preference_data(
            {name: work.folder(name) for name in work.settings.data.sources},
            work.folder("personal_data"),
            work.settings,
            work.output,
        ),
    )


@dg.asset(
    deps=UPSTREAM["actor_training_data"],
    partitions_def=ASSISTANTS,
    group_name="data",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["actor_training_data"],
    check_specs=asset_checks("actor_training_data"),
)
def actor_training_data(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """The first dataset: prompts with the replies that the actor imitates."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_actor_training_data(
            work.folder("preference_data"),
            work.folder("synthetic_conversations"),
            work.folder("personal_data"),
            work.settings,
            work.output,
        ),
    )


@dg.asset(
    deps=UPSTREAM["rlhf_training_data"],
    partitions_def=ASSISTANTS,
    group_name="data",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["rlhf_training_data"],
    check_specs=asset_checks("rlhf_training_data"),
)
def rlhf_training_data(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """The second dataset: prompts that PPO practises on and evaluation asks."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_rlhf_training_data(
            work.folder("preference_data"),
            work.folder("synthetic_prompts"),
            work.folder("personal_data"),
            work.settings,
            work.output,
        ),
    )
