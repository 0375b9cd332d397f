"""A code location with our sensors and the real assets that a year's runs make."""

import warnings
from pathlib import Path

import dagster as dg

from assets.release import evaluation, release
from assets.sources import personal_data
from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.jobs import JOBS
from chatllama_pipeline.automation.keys import assistants
from chatllama_pipeline.automation.lost import lost_runs
from chatllama_pipeline.automation.retraining import retrain
from chatllama_pipeline.automation.rollback import rollback_job
from chatllama_pipeline.records import Outcome, StageSpec
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource
from tests.automation.year.stages import STAGES


class QuickCompute(Compute):
    """Stages that end at once, and need no process of their own for that."""

    def run_stage(
        self, context: dg.AssetExecutionContext, spec: StageSpec, spec_path: Path
    ) -> tuple[Outcome, float]:
        spec.write(spec_path)
        return STAGES[spec.stage](StageSpec.read(spec_path)), 0.0


# Named as ours, of what there is here.
jobs = [dg.define_asset_job(job.name, selection=dg.AssetSelection.all()) for job in JOBS]
every = [job for job in jobs if job.name == "all"]

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Parameter `owners` of initializer")  # which copies pass on
    on_folders = assistant_folders.with_attributes(jobs=every)
    on_time = retrain.with_attributes(jobs=jobs)

definitions = dg.Definitions(
    assets=[personal_data, evaluation, release],
    resources={
        "compute": QuickCompute(device="cpu"),
        "store": StoreResource(),
        "run_options": RunOptions(),
    },
    jobs=[*jobs, rollback_job],
    sensors=[
        assistants,
        on_folders,
        lost_runs,
        on_time,
    ],
    executor=dg.in_process_executor,
)
