"""How `compute` runs a stage: as a child process here, or as a job of a cluster."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

from chatllama_pipeline.errors import ChildError, OutOfMemoryError, WarmParentError
from chatllama_pipeline.gpus import VARIABLE
from chatllama_pipeline.launch import ONE_PROCESS
from chatllama_pipeline.launch.child import ChildRun, child_environment, run_child
from chatllama_pipeline.launch.forks import WarmParent
from chatllama_pipeline.launch.jobs.running import require_no_job, run_job
from chatllama_pipeline.launch.jobs.scheduler import Scheduler, Task
from chatllama_pipeline.launch.jobs.stage import run_as_job
from chatllama_pipeline.launch.out_of_memory import advice, choice_file, micro_batch, with_half
from chatllama_pipeline.launch.stages import error_file, stage_error
from chatllama_pipeline.llm.local.server import LOG_FILE, Elsewhere
from chatllama_pipeline.records import Outcome, StageSpec

if TYPE_CHECKING:
    from resources.compute import Compute


class _MessageReader(dg.PipesTempFileMessageReader):
    # Dagster marks the inherited property as preview and warns at each of its own look-ups.
    @property
    def expected_writer_count(self) -> int:
        return 1


def run_stage(
    compute: Compute, context: dg.AssetExecutionContext, spec: StageSpec, spec_path: Path
) -> tuple[Outcome, float]:
    """What `Compute.run_stage` promises."""
    compute.require_valid()
    scheduler = _scheduler(compute, spec.stage, spec_path.parent)
    processes, device = _place(compute, spec.stage, scheduler)
    spec = dataclasses.replace(spec, device=device)
    warnings: list[str] = []
    while True:
        try:
            if scheduler is None:
                outcome, seconds = _run_here(compute, context, spec, spec_path, processes)
            else:
                outcome, seconds = _run_as_job(compute, context, spec, spec_path, scheduler)
        except OutOfMemoryError as error:
            rows, smaller = micro_batch(spec, processes), with_half(spec, processes)
            if rows is None:
                raise
            if smaller is None:
                raise OutOfMemoryError(f"{error}\n{advice(spec)}") from None
            context.log.warning(
                f"{spec.stage} ran out of memory at micro_batch_size {rows}: tries again with "
                f"{micro_batch(smaller, processes)}, from its last state"
            )
            warnings = [
                f"ran out of memory at micro_batch_size {rows}, "
                f"{micro_batch(smaller, processes)} fitted: set it in config.yaml"
            ]
            spec = smaller
            continue
        return dataclasses.replace(outcome, warnings=outcome.warnings + warnings), seconds


def _place(compute: Compute, stage: str, scheduler: Scheduler | None) -> tuple[int, str]:
    """How many processes a stage has in all, and their device."""
    if scheduler is not None:
        asked = scheduler.request
        return asked.nodes * asked.processes, "cuda" if asked.gpus else "cpu"
    return 1 if stage in ONE_PROCESS else compute.processes, compute.device_at_hand()


def _scheduler(compute: Compute, stage: str, folder: Path) -> Scheduler | None:
    """Who runs `stage`, whose files stand in `folder`; None where this machine does."""
    asked = compute.asked()
    if asked is None:
        require_no_job(folder, compute.launcher)
        return None
    nodes, processes = (1, 1) if stage in ONE_PROCESS else (compute.nodes, compute.processes)
    return asked.scheduler(folder, nodes, processes, compute.threads)


def _run_as_job(
    compute: Compute,
    context: dg.AssetExecutionContext,
    spec: StageSpec,
    spec_path: Path,
    scheduler: Scheduler,
) -> tuple[Outcome, float]:
    seconds, metrics = run_as_job(
        dataclasses.replace(spec, threads=scheduler.request.threads_each),
        spec_path,
        compute.stage_command(spec_path),
        scheduler,
        stop_seconds=compute.stop_seconds,
        say=context.log.info,
    )
    outcome = Outcome.read(Path(spec.result))
    return dataclasses.replace(outcome, metrics=outcome.metrics | metrics), seconds


def _run_here(
    compute: Compute,
    context: dg.AssetExecutionContext,
    spec: StageSpec,
    spec_path: Path,
    processes: int,
) -> tuple[Outcome, float]:
    with (
        compute.gpus(spec.device, processes, context, spec.stage) as gpus,
        compute.threads_per_process(processes) as threads,
        dg.open_pipes_session(
            context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=_MessageReader(),
        ) as session,
    ):
        spec = dataclasses.replace(spec, threads=threads)
        spec.write(spec_path)
        # Empty on a CPU: what looks for a GPU by itself must not find one.
        visible = {VARIABLE: ",".join(gpus.ids)}
        steady = {**child_environment(threads), **visible}
        command = compute.stage_command(spec_path)
        start = partial(
            run_child,
            command,
            env={**steady, **session.get_bootstrap_env_vars()},
            log=spec_path.with_suffix(".log"),
            processes=processes,
            poll=compute.look,
            pass_fds=gpus.fds,
            stop_seconds=compute.stop_seconds,
        )
        warm = None
        if compute.warm is not None and processes == 1:
            warm = compute.warm.parent(command[:-1], spec, spec_path, steady)
        try:
            run = _started(compute, context, spec, start, warm)
        except ChildError:
            refusal = stage_error(Path(spec.result))
            if refusal is None:
                raise
            raise refusal from None
    if run.leftovers:
        context.log.warning(
            f"{spec.stage} left processes running, which were ended: {run.leftovers}"
        )
    return Outcome.read(Path(spec.result)), run.seconds


def _started(
    compute: Compute,
    context: dg.AssetExecutionContext,
    spec: StageSpec,
    start: Callable[..., ChildRun],
    warm: WarmParent | None,
) -> ChildRun:
    """Run the child, as a fork of `warm` if there is one; else, or where that ends, alone."""
    _forget(Path(spec.result))
    try:
        return start(warm=warm)
    except WarmParentError as error:
        context.log.warning(f"{error}; {spec.stage} starts in a process of its own")
    if compute.warm is not None:
        compute.warm.give_up()
    _forget(Path(spec.result))
    return start()


def _forget(result: Path) -> None:
    """Remove what an earlier try left."""
    for left_over in (result, error_file(result), choice_file(result)):
        left_over.unlink(missing_ok=True)


def elsewhere(compute: Compute, context: dg.AssetExecutionContext) -> Elsewhere:
    """How a local model runs as a job of the cluster, on one node."""

    def run(command: Sequence[str], spec: Path, refusal: Path, look: Callable[[], None]) -> None:
        asked = compute.asked()
        assert asked is not None
        log = spec.with_name(LOG_FILE)
        task = Task("llm", command, spec, log, refusal, lambda: None, lambda: True)
        scheduler = asked.scheduler(spec.parent, 1, 1, compute.threads)
        with contextlib.closing(scheduler):
            run_job(task, scheduler, say=context.log.info, stop_seconds=0.0, look=look)

    return run
