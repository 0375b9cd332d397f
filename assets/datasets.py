"""The preference pairs, and ChatLLaMA's actor and RLHF datasets."""

import dagster as dg

from assets.making import Results, make
from assets.specs import pipeline_asset
from chatllama_pipeline.data.audit.build import build_data_audit
from chatllama_pipeline.data.own.unread import unread_files
from chatllama_pipeline.data.prepare.datasets import (
    build_actor_training_data,
    build_rlhf_training_data,
)
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("preference_data", "data", "python", "parquet")
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


@pipeline_asset("actor_training_data", "data", "python", "parquet")
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


@pipeline_asset("rlhf_training_data", "data", "python", "parquet")
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


@pipeline_asset("data_audit", "data", "python", "html")
def data_audit(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """What the data are made of, as checks and a page: read it before anything is trained."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_data_audit(
            work.assistant.name,
            {name: version.path for name, version in work.inputs.items()},
            work.settings,
            work.output,
            unread_files(work.assistant.folder, work.settings),
        ),
    )
