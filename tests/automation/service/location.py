"""A code location with real assets, sensors and processes, and stages of a few seconds."""

import sys
from pathlib import Path

import dagster as dg

from assets.models import actor_sft
from assets.release import evaluation, release
from chatllama_pipeline.automation.keys import assistants
from chatllama_pipeline.automation.lost import lost_runs
from resources.compute import Compute
from resources.run_options import RunOptions
from resources.store import StoreResource


class QuickCompute(Compute):
    """The real processes, two of them for the training."""

    def stage_command(self, spec_path: Path) -> list[str]:
        stages = Path(__file__).with_name("stages.py")
        return [sys.executable, str(stages), str(spec_path)]


definitions = dg.Definitions(
    assets=[actor_sft, evaluation, release],
    resources={
        "compute": QuickCompute(device="cpu", threads=1, processes=2),
        "store": StoreResource(),
        "run_options": RunOptions(),
    },
    jobs=[dg.define_asset_job("all", selection=dg.AssetSelection.all())],
    sensors=[assistants, lost_runs],
    executor=dg.in_process_executor,
)
