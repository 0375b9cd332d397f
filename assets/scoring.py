"""Scoring: a judge's 0..5 where no score stands."""

import dagster as dg

from assets.making import Results, make
from assets.partitions import ASSISTANTS
from assets.specs import OWNERS, asset_checks
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.recipes import CODE_VERSION, UPSTREAM
from resources.run_options import RunOptions
from resources.store import StoreResource


@dg.asset(
    deps=UPSTREAM["reward_training_data"],
    partitions_def=ASSISTANTS,
    group_name="scoring",
    kinds={"python", "parquet"},
    owners=OWNERS,
    code_version=CODE_VERSION["reward_training_data"],
    check_specs=asset_checks("reward_training_data"),
)
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
        ),
    )
