"""A code location with our sensors and the real assets that a year's runs make."""

import sys
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
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource

REPOSITORY = str(Path(__file__).parents[3])
PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[2]);"
    "from chatllama_pipeline.launch.stages import main;"
    "from tests.automation.year.stages import STAGES;"
    "sys.exit(main([sys.argv[1]], STAGES))"
)


class QuickCompute(Compute):
    """The real processes, of stages that end at once."""

    def stage_command(self, spec_path: Path) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(spec_path), REPOSITORY]


# Named as ours, of what there is here.
jobs = [dg.define_asset_job(job.name, selection=dg.AssetSelection.all()) for job in JOBS]
every = [job for job in jobs if job.name == "all"]

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
        assistant_folders.with_attributes(jobs=every),
        lost_runs,
        retrain.with_attributes(jobs=jobs),
    ],
    executor=dg.in_process_executor,
)
