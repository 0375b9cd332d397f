"""Where a stage of the tests' own runs as a job, and what it said."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatllama_pipeline.launch.jobs.scheduler import Request, Scheduler
from chatllama_pipeline.launch.jobs.stage import job_environment, run_as_job
from chatllama_pipeline.launch.kubernetes.scheduler import Kubernetes
from chatllama_pipeline.launch.kubernetes.wanted import Wanted as AskedOfKubernetes
from chatllama_pipeline.launch.ray.scheduler import Ray
from chatllama_pipeline.launch.ray.wanted import Wanted as AskedOfRay
from chatllama_pipeline.launch.slurm.scheduler import Slurm
from chatllama_pipeline.launch.slurm.script import Wanted as AskedOfSlurm
from chatllama_pipeline.records import Outcome, StageSpec

STAGES = Path(__file__).parent / "stages.py"
HELD = Path(__file__).parent / "held.py"
REAL = [sys.executable, "-m", "chatllama_pipeline.launch.stages"]


def scheduler(request: Request, folder: Path) -> Scheduler:
    """Who runs what is asked for."""
    if isinstance(request, AskedOfRay):
        return Ray(request, folder, job_environment())
    if isinstance(request, AskedOfKubernetes):
        return Kubernetes(request, folder, job_environment())
    assert isinstance(request, AskedOfSlurm)
    return Slurm(request, job_environment())


def when(happens: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do something once something is so, beside what the test waits for."""

    def look() -> None:
        deadline = time.monotonic() + 300
        while not happens():
            if time.monotonic() > deadline:
                return
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    return thread


@dataclass
class Place:
    """Where a stage of ours runs, and what it said."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def heard(self, words: str) -> bool:
        return any(words in line for line in self.said)

    def spec(self, stage: str) -> StageSpec:
        (self.folder / "published").mkdir(parents=True, exist_ok=True)
        return StageSpec(
            stage=stage,
            assistant="ours",
            settings={},
            inputs={},
            output=str(self.folder / "published"),
            run_folder=str(self.folder),
            result=str(self.folder / "result.json"),
            threads=0,
        )

    def run(self, stage: str, request: Request) -> tuple[Outcome, dict[str, Any]]:
        """Run one of `stages.py`."""
        path = self.folder / "spec.json"
        command = [sys.executable, str(STAGES), str(path)]
        return self._run(self.spec(stage), command, path, request)

    def train(self, spec: StageSpec, request: Request) -> tuple[Outcome, dict[str, Any]]:
        """Run a training as the pipeline does; `spec` is of a folder of its own."""
        path = Path(spec.result).with_name("spec.json")
        return self._run(spec, [*REAL, str(path)], path, request)

    def train_held(self, spec: StageSpec, request: Request) -> tuple[Outcome, dict[str, Any]]:
        """The same of a training that waits where `held.py` is told to."""
        path = Path(spec.result).with_name("spec.json")
        return self._run(spec, [sys.executable, str(HELD), str(path)], path, request)

    def _run(
        self, spec: StageSpec, command: list[str], path: Path, request: Request
    ) -> tuple[Outcome, dict[str, Any]]:
        by = scheduler(request, path.parent)
        _, metrics = run_as_job(spec, path, command, by, stop_seconds=20, say=self.said.append)
        return Outcome.read(Path(spec.result)), metrics
