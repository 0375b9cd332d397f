"""A stage as a job, or as several where time limits end it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import ChildError, StoppedError
from chatllama_pipeline.launch import source
from chatllama_pipeline.launch.jobs.running import JobError, run_job
from chatllama_pipeline.launch.jobs.scheduler import Job, Scheduler, Task
from chatllama_pipeline.launch.out_of_memory import choice_file
from chatllama_pipeline.launch.stages import error_file, stage_error
from chatllama_pipeline.records import StageSpec

# The scheduler owns the devices.
NOT_FOR_JOBS = ("CUDA_VISIBLE_DEVICES",)


def run_as_job(
    spec: StageSpec,
    spec_path: Path,
    command: Sequence[str],
    scheduler: Scheduler,
    *,
    stop_seconds: float,
    say: Callable[[str], None],
) -> tuple[float, dict[str, Any]]:
    """Run the stage of `spec`, written to `spec_path` here; its seconds, and metrics of its jobs.

    What it makes stands in the run folder until it has ended, since a job may outlive the run that
    asked for it. A training that was stopped amid its work (a time limit, a preemption), or lost a
    node, goes on in another job. Raises the stage's own error where it refused, else as `run_job`.
    """
    made, result = Path(spec.run_folder) / "output", Path(spec.result)
    dataclasses.replace(spec, output=str(made)).write(spec_path)
    files = (spec_path, spec_path.with_suffix(".log"), error_file(result))
    task = Task(spec.stage, command, *files, lambda: _clear(made, result), result.exists)
    ended: list[Job | None] = []
    stopped, seconds, lost = "", 0.0, 0
    with contextlib.closing(scheduler):
        while True:
            try:
                run = run_job(task, scheduler, say=say, stop_seconds=stop_seconds)
            except JobError as error:
                refusal = stage_error(result)
                if refusal is None and error.ended.was_lost and lost < scheduler.request.retries:
                    lost += 1
                    ended.append(error.ended)
                    seconds += error.seconds
                    say(f"{spec.stage}: job {error.id} lost a node; asks for another")
                    continue
                if not isinstance(refusal, StoppedError):
                    raise (refusal or error) from None
                if str(refusal) == stopped:
                    raise ChildError(
                        f"{spec.stage} was stopped twice with nothing done between ({refusal}): "
                        f"{scheduler.cure_for_stops}"
                    ) from None
                stopped = str(refusal)
                ended.append(error.ended)
                seconds += error.seconds
                say(f"{spec.stage}: job {error.id} {refusal}; asks for another")
                continue
            ended.append(run.ended)
            break
    for file in sorted(made.iterdir()):
        file.rename(Path(spec.output) / file.name)
    return seconds + run.seconds, _costs(scheduler.section, run.id, ended)


def _clear(made: Path, result: Path) -> None:
    for left_over in (result, error_file(result), choice_file(result)):
        left_over.unlink(missing_ok=True)
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)


def job_environment() -> dict[str, str]:
    """What a job's processes find in their environment: this one's, but for its devices."""
    ours = {name: value for name, value in os.environ.items() if name not in NOT_FOR_JOBS}
    return {**ours, source.VARIABLE: source.source_fingerprint()}


def _costs(launcher: str, job: str, ended: Sequence[Job | None]) -> dict[str, Any]:
    """Queue time and node hours; a job that its scheduler forgot costs what nobody knows."""
    known = [job for job in ended if job is not None]
    return {
        f"{launcher}_job": job,
        f"{launcher}_jobs": len(ended),
        f"{launcher}_nodes": known[-1].nodes if known else "",
        f"{launcher}_restarts": sum(job.restarts for job in known),
        "queued_seconds": round(sum(job.queued_seconds for job in known), 1),
        "node_hours": round(sum(job.node_hours for job in known), 4),
    }
