"""A Dagster code location whose assets wait for `worker.py`, at work in $TRIAL_FOLDER/ASSET."""

import os
import sys
from pathlib import Path

import dagster as dg

from chatllama_pipeline.records import StageSpec
from resources.compute import Compute

FOLDER = Path(os.environ["TRIAL_FOLDER"])


class WorkerCompute(Compute):
    def stage_command(self, spec_path: Path) -> list[str]:
        worker = Path(__file__).with_name("worker.py")
        return [sys.executable, str(worker), str(spec_path.parent)]


def wait_for_worker(
    context: dg.AssetExecutionContext, compute: WorkerCompute
) -> dg.MaterializeResult[None]:
    folder = FOLDER / context.asset_key.to_user_string()
    folder.mkdir()
    spec = StageSpec(
        stage="sleep",
        assistant="nobody",
        settings={},
        inputs={},
        output=str(folder),
        run_folder=str(folder),
        result=str(folder / "result.json"),
    )
    compute.run_stage(context, spec, folder / "spec.json")
    return dg.MaterializeResult()


@dg.asset
def one_child(
    context: dg.AssetExecutionContext, compute: WorkerCompute
) -> dg.MaterializeResult[None]:
    return wait_for_worker(context, compute)


@dg.asset
def two_ranks(
    context: dg.AssetExecutionContext, two_processes: WorkerCompute
) -> dg.MaterializeResult[None]:
    return wait_for_worker(context, two_processes)


defs = dg.Definitions(
    assets=[one_child, two_ranks],
    resources={
        # A worker is no stage, so that no warm parent can fork it.
        "compute": WorkerCompute(device="cpu", threads=1, stop_seconds=3.0, warm_parent=False),
        "two_processes": WorkerCompute(device="cpu", threads=2, processes=2, stop_seconds=3.0),
    },
    executor=dg.in_process_executor,
)
