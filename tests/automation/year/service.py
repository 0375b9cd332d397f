"""Dagster's own daemon code over that location, on a clock that a test moves."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import dagster as dg
import time_machine
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.events import DagsterEvent
from dagster._core.launcher.base import LaunchRunContext
from dagster._core.launcher.sync_in_memory_run_launcher import SyncInMemoryRunLauncher
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.auto_run_reexecution.event_log_consumer import EventLogConsumerDaemon
from dagster._daemon.sensor import execute_sensor_iteration

from chatllama_pipeline.store.versions import Store
from tests.automation.made import make_versions, write_assistant
from tests.automation.runs.lost_process import another_process
from tests.quick import quick_instance

LOCATION = Path(__file__).with_name("location.py")
LOG = logging.getLogger("year")


class Launcher(SyncInMemoryRunLauncher):
    """Runs end as they are launched; that of one assistant is lost, as a machine goes down."""

    loses = ""

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        if run.tags["dagster/partition"] != Launcher.loses:
            super().launch_run(context)
            return
        Launcher.loses = ""
        started = DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name)
        self._instance.report_dagster_event(started, run.run_id)
        with another_process(self._instance, run.run_id):
            pass


class Held(SyncInMemoryRunLauncher):
    """Runs go on until somebody ends them."""

    going: ClassVar[dict[str, LaunchRunContext]] = {}

    def launch_run(self, context: LaunchRunContext) -> None:
        self.going[context.dagster_run.run_id] = context

    def end(self, run: str) -> None:
        super().launch_run(self.going.pop(run))


class Service:
    """Assistants under `root`, and what Dagster does about them from tick to tick."""

    def __init__(self, root: Path, instance: dg.DagsterInstance) -> None:
        self.root = root
        self.instance = instance
        self.store = Store(root / "storage")
        self._open = contextlib.ExitStack()
        self._retries = EventLogConsumerDaemon()

    def start(self) -> None:
        """As the service does: nothing but the instance's storage is remembered."""
        origin = InProcessCodeLocationOrigin(
            LoadableTargetOrigin(python_file=str(LOCATION), attribute="definitions")
        )
        target = InProcessWorkspaceLoadTarget(origin)
        context = create_test_daemon_workspace_context(target, self.instance)
        self.context = self._open.enter_context(context)
        location = next(iter(self.context.create_request_context().code_locations))
        [repository] = location.get_repositories().values()
        on = self.instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
        for sensor in repository.get_sensors():
            if sensor.name in ("retrain", "assistant_folders") and not on:
                self.instance.start_sensor(sensor)

    def stop(self) -> None:
        self._open.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def at(self, when: datetime) -> None:
        """One round of the daemon."""
        with time_machine.travel(when, tick=True):
            list(execute_sensor_iteration(self.context, LOG, None, None))
            list(self._retries.run_iteration(self.context))

    def write(self, name: str, rows: int = 3, **sections: Any) -> None:
        write_assistant(self.root / "assistants" / name, rows, **sections)

    def make_models(self, name: str, others: str = "") -> None:
        make_versions(self.store, name, all_but=("evaluation", "release"), others=others)

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / "assistants" / name)

    def runs(self, sensor: str | None = None) -> list[dg.DagsterRun]:
        """All runs, or those that a sensor asked for, in order."""
        tags = {"dagster/sensor_name": sensor} if sensor else None
        return list(reversed(self.instance.get_runs(dg.RunsFilter(tags=tags))))


@contextlib.contextmanager
def service(root: Path, **others: Any) -> Iterator[Service]:
    """`others` are settings of an instance in the place of those here."""
    overrides = {
        "run_launcher": {"module": __name__, "class": "Launcher"},
        "run_coordinator": {
            "module": "dagster._core.run_coordinator",
            "class": "DefaultRunCoordinator",
        },
        "run_retries": {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": False},
        "python_logs": {"python_log_level": "CRITICAL"},
        **others,
    }
    with quick_instance(overrides=overrides) as instance:
        opened = Service(root, instance)
        try:
            yield opened
        finally:
            opened.stop()
