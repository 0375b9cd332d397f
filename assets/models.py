"""Models: the bases, the reward model, the fine-tuned actor, and the actor after PPO."""

import dagster as dg

from assets.making import Results, make, run_stage
from assets.partitions import ASSISTANTS
from assets.specs import OWNERS, asset_checks
from chatllama_pipeline.recipes import CODE_VERSION, UPSTREAM
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


@dg.asset(
    deps=UPSTREAM["actor_base"],
    partitions_def=ASSISTANTS,
    group_name="models",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION["actor_base"],
    check_specs=asset_checks("actor_base"),
)
def actor_base(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The weights and tokenizer that the actor starts from."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@dg.asset(
    deps=UPSTREAM["reward_base"],
    partitions_def=ASSISTANTS,
    group_name="models",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION["reward_base"],
    check_specs=asset_checks("reward_base"),
)
def reward_base(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The weights and tokenizer that the reward model starts from."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@dg.asset(
    deps=UPSTREAM["reward_model"],
    partitions_def=ASSISTANTS,
    group_name="models",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION["reward_model"],
    check_specs=asset_checks("reward_model"),
)
def reward_model(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The model that scores replies, from preference pairs and scores."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@dg.asset(
    deps=UPSTREAM["actor_sft"],
    partitions_def=ASSISTANTS,
    group_name="models",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION["actor_sft"],
    check_specs=asset_checks("actor_sft"),
)
def actor_sft(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The actor after supervised fine-tuning on its dataset."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@dg.asset(
    deps=UPSTREAM["actor_ppo"],
    partitions_def=ASSISTANTS,
    group_name="models",
    kinds={"pytorch", "huggingface"},
    owners=OWNERS,
    code_version=CODE_VERSION["actor_ppo"],
    check_specs=asset_checks("actor_ppo"),
)
def actor_ppo(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The actor after PPO against the reward model, with its critic."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))
