"""Scoring: a judge's 0..5 where no score stands."""

import dagster as dg

from assets.making import Results, Work, make
from assets.specs import pipeline_asset
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("reward_training_data", "scoring", "python", "parquet")
def reward_training_data(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """The third dataset: completions with scores; scores that stood already are kept."""

    def score(work: Work) -> Outcome:
        with compute.machine(context, work.settings.role("judge")) as machine:
            return build_reward_training_data(
                work.folder("preference_data"),
                work.folder("synthetic_completions"),
                work.folder("personal_data"),
                work.settings,
                work.output,
                work.bench.run_folder,
                Progress("reward_training_data", context.log.info),
                machine,
            )

    yield from make(context, store, run_options, score)
