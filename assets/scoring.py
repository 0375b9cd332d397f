"""Scoring: a judge's 0..5 where no score stands."""

import dagster as dg

from assets.making import Results, make
from assets.specs import pipeline_asset
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.progress import Progress
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("reward_training_data", "scoring", "python", "parquet")
def reward_training_data(
    context: dg.AssetExecutionContext, store: StoreResource, run_options: RunOptions
) -> Results:
    """The third dataset: completions with scores; scores that stood already are kept."""
    yield from make(
        context,
        store,
        run_options,
        lambda work: build_reward_training_data(
            work.folder("preference_data"),
            work.folder("synthetic_completions"),
            work.folder("personal_data"),
            work.settings,
            work.output,
            work.bench.run_folder,
            Progress("reward_training_data", context.log.info),
        ),
    )
