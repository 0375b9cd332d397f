"""Models: the bases, the reward model, the fine-tuned actor, and the actor after PPO."""

import dagster as dg

from assets.making import Results, make, run_stage
from assets.specs import pipeline_asset
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("actor_base", "models", "pytorch", "huggingface")
def actor_base(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The weights and tokenizer that the actor starts from."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@pipeline_asset("reward_base", "models", "pytorch", "huggingface")
def reward_base(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The weights and tokenizer that the reward model starts from."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@pipeline_asset("reward_model", "models", "pytorch", "huggingface")
def reward_model(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The model that scores replies, from preference pairs and scores."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@pipeline_asset("actor_sft", "models", "pytorch", "huggingface")
def actor_sft(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The actor after supervised fine-tuning on its dataset."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))


@pipeline_asset("actor_ppo", "models", "pytorch", "huggingface")
def actor_ppo(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The actor after PPO against the reward model, with its critic."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))
