"""Where a stage of the tests' own runs as a job, and what it said."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatllama_pipeline.launch.slurm.script import Wanted
from chatllama_pipeline.launch.slurm.stage import run_as_job
from chatllama_pipeline.records import Outcome, StageSpec

STAGES = Path(__file__).parent / "stages.py"


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

    def run(self, stage: str, wanted: Wanted | None = None) -> tuple[Outcome, dict[str, Any]]:
        path = self.folder / "spec.json"
        _, metrics = run_as_job(
            self.spec(stage),
            path,
            [sys.executable, str(STAGES), str(path)],
            wanted or Wanted(),
            stop_seconds=20,
            say=self.said.append,
        )
        return Outcome.read(self.folder / "result.json"), metrics
