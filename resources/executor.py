"""Steps in the run's own process: one after the other, but for trainings that have GPUs each."""

import contextlib
import contextvars
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.executor_definition import IN_PROC_CONFIG
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.events import DagsterEvent, EngineEventData
from dagster._core.execution.api import ExecuteRunWithPlanIterable
from dagster._core.execution.compute_logs import create_compute_log_file_key
from dagster._core.execution.context.system import (
    PlanExecutionContext,
    PlanOrchestrationContext,
    StepExecutionContext,
)
from dagster._core.execution.context_creation_job import PlanExecutionContextManager
from dagster._core.execution.plan.execute_plan import dagster_event_sequence_for_step
from dagster._core.execution.plan.instance_concurrency_context import InstanceConcurrencyContext
from dagster._core.execution.plan.plan import ExecutionPlan
from dagster._core.execution.retries import RetryMode
from dagster._core.execution.step_dependency_config import StepDependencyConfig
from dagster._core.executor.in_process import InProcessExecutor
from dagster._utils.error import serializable_error_info_from_exc_info
from dagster._utils.interrupts import pop_captured_interrupt

from resources.compute import Compute
from resources.refusals import show_tracebacks

# Neither is made from the other, and both take hours.
SIDE_BY_SIDE = frozenset({"reward_model", "actor_sft"})
TICK_SECONDS = 0.1
Events = Iterator[DagsterEvent]


class OneProcess(InProcessExecutor):
    """Dagster's own, with trainings that don't need each other side by side."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[DagsterEvent]:
        steps, process = execution_plan.step_keys_to_execute, os.getpid()
        said = EngineEventData.in_process(process, steps)
        yield DagsterEvent.engine_event(plan_context, f"Executing steps in process {process}", said)
        yield from ExecuteRunWithPlanIterable(
            execution_plan=execution_plan,
            iterator=_run_steps,
            execution_context_manager=PlanExecutionContextManager(
                job=plan_context.job,
                retry_mode=plan_context.retry_mode,
                execution_plan=execution_plan,
                run_config=plan_context.run_config,
                dagster_run=plan_context.dagster_run,
                instance=plan_context.instance,
                raise_on_error=plan_context.raise_on_error,
                output_capture=plan_context.output_capture,
                step_dependency_config=self.step_dependency_config,
            ),
        )
        yield DagsterEvent.engine_event(plan_context, f"Finished steps in process {process}", said)


@dg.executor(name="one_process", config_schema=IN_PROC_CONFIG)
def one_process(context: dg.InitExecutorContext) -> OneProcess:
    """What runs the steps of every job here; it takes the config of Dagster's in-process one."""
    config: dict[str, Any] = dict(context.executor_config)
    waits = StepDependencyConfig.from_config(config.get("step_dependency_config"))
    return OneProcess(RetryMode.from_config(config["retries"]) or RetryMode.DISABLED, waits)


def _run_steps(job_context: PlanExecutionContext, execution_plan: ExecutionPlan) -> Events:
    """As Dagster's loop over the steps of a process, which runs one that is ready at a time."""
    held: list[StepExecutionContext] = []
    with (
        InstanceConcurrencyContext(job_context.instance, job_context.dagster_run) as slots,
        execution_plan.start(
            retry_mode=job_context.retry_mode,
            instance_concurrency_context=slots,
            step_dependency_config=job_context.step_dependency_config,
        ) as active,
        contextlib.ExitStack() as captured,
    ):
        yield from _told(job_context, lambda: _capture(job_context, execution_plan, captured))
        while not active.is_complete:
            step = active.get_next_step()
            yield from active.concurrency_event_iterator(job_context)
            if step is not None:
                context = job_context.for_step(step, active.get_known_state())
                if _waits_for_another(context, execution_plan):
                    held.append(context)
                    continue
                together = [context]
            elif held:
                together, held = held, []
            else:
                active.sleep_til_ready()
                continue
            for event in _at_once(together) if len(together) > 1 else _alone(together[0]):
                yield event
                active.handle_event(event)
            for context in together:
                active.verify_complete(job_context, context.step.key)
            yield from active.plan_events_iterator(job_context)
        yield from _told(job_context, captured.close)


def _alone(context: StepExecutionContext) -> Events:
    yield from dagster_event_sequence_for_step(context)


def _told(
    job_context: PlanExecutionContext, capturing: Callable[[], DagsterEvent | None]
) -> Events:
    """What goes wrong with the output of a run is told, and ends none."""
    try:
        event = capturing()
    except Exception:
        error = EngineEventData(error=serializable_error_info_from_exc_info(sys.exc_info()))
        event = DagsterEvent.engine_event(job_context, "Can't keep what the run prints", error)
    if event is not None:
        yield event


def _capture(
    job_context: PlanExecutionContext, execution_plan: ExecutionPlan, captured: contextlib.ExitStack
) -> DagsterEvent:
    """From here on what the process prints is the run's."""
    logs, keys = job_context.instance.compute_log_manager, execution_plan.step_keys_to_execute
    file = create_compute_log_file_key()  # type: ignore[no-untyped-call]
    place = logs.build_log_key_for_run(job_context.run_id, file)
    output = captured.enter_context(logs.capture_logs(place))
    event: DagsterEvent = DagsterEvent.capture_logs(job_context, keys, place, output)
    return event


def _waits_for_another(context: StepExecutionContext, execution_plan: ExecutionPlan) -> bool:
    """Whether a step is held until nothing else can be done but trainings like it."""
    trainings = SIDE_BY_SIDE.intersection(execution_plan.step_keys_to_execute)
    if context.step.key not in trainings or len(trainings) < 2:
        return False
    return _compute(context).has_room_for(len(trainings))


def _compute(context: StepExecutionContext) -> Compute:
    found = context.resources.compute
    assert isinstance(found, Compute)
    return found


def _at_once(contexts: Sequence[StepExecutionContext]) -> Events:
    """The events of several steps, each of a thread; an interrupt ends all of them.

    A step that fails leaves the others to their end. A second interrupt waits for none.
    """
    events: queue.Queue[DagsterEvent | None] = queue.Queue()
    raised: list[BaseException] = []

    def work(context: StepExecutionContext) -> None:
        try:
            for event in _alone(context):
                events.put(event)
        except BaseException as error:
            raised.append(error)
        finally:
            show_tracebacks()  # of the others
            events.put(None)

    going, interrupts = len(contexts), 0
    for context in contexts:
        inherited = contextvars.copy_context()
        threading.Thread(target=inherited.run, args=(work, context), daemon=True).start()
    try:
        while going and interrupts < 2:
            try:
                event = events.get(timeout=TICK_SECONDS)
            except queue.Empty:
                if pop_captured_interrupt():
                    interrupts += 1
                    _compute(contexts[0]).stop_stages()
                continue
            if event is None:
                going -= 1
            else:
                yield event
    finally:
        if going:
            _compute(contexts[0]).stop_stages()
    if interrupts:
        raise DagsterExecutionInterruptedError
    if raised:
        raise raised[0]
