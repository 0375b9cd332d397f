"""Evaluation: is the actor better after PPO than before?"""

import dagster as dg

from assets.making import Results, make, run_stage
from assets.specs import pipeline_asset
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


@pipeline_asset("evaluation", "evaluation", "pytorch", "html")
def evaluation(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """SFT against PPO on test prompts, with the verdict of the release gate."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))
