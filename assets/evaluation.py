"""Evaluation: is the actor better after PPO than before?"""

import dagster as dg

from assets.making import Results, make, run_stage
from assets.partitions import ASSISTANTS
from assets.specs import OWNERS, asset_checks
from chatllama_pipeline.recipes import CODE_VERSION, UPSTREAM
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


@dg.asset(
    deps=UPSTREAM["evaluation"],
    partitions_def=ASSISTANTS,
    group_name="evaluation",
    kinds={"pytorch", "html"},
    owners=OWNERS,
    code_version=CODE_VERSION["evaluation"],
    check_specs=asset_checks("evaluation"),
)
def evaluation(
    context: dg.AssetExecutionContext,
    compute: Compute,
    store: StoreResource,
    run_options: RunOptions,
) -> Results:
    """SFT against PPO on test prompts, with the verdict of the release gate."""
    yield from make(context, store, run_options, lambda work: run_stage(context, compute, work))
