"""Whether the nodes of a cluster learn what one process learns."""

from __future__ import annotations

from pathlib import Path

from benchmarks.resume import Trial, make_inputs
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.records import Outcome
from tests.cluster.held import TRAININGS
from tests.cluster.place import Place
from tests.training.processes.trials import run_here

STAGES = TRAININGS
STEPS = 20
Curves = dict[str, list[float]]


class Alone:
    """What one process learns in each training, trained once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.inputs = make_inputs(folder / "inputs")
        self._learned: dict[str, Curves] = {}

    def learned(self, stage: str) -> Curves:
        """Every curve of a training."""
        if stage not in self._learned:
            # Here: this process has imported already what it needs.
            outcome = run_here(trial(stage), self.inputs, self._folder / stage)
            self._learned[stage] = _curves(outcome)
        return self._learned[stage]

    def assert_same(self, stage: str, outcome: Outcome) -> None:
        """Every loss and score of each step is the same to 1e-3."""
        expected, found = self.learned(stage), _curves(outcome)
        watched = [name for name in expected if "loss" in name or name == "score"]
        assert watched
        for name in watched:
            for one, other in zip(found[name], expected[name], strict=True):
                assert abs(one - other) < 1e-3, name


def trial(stage: str) -> Trial:
    return Trial(stage, steps=STEPS)


def assert_same_losses(alone: Alone, stage: str, folder: Path, request: Request) -> None:
    """Train as a job what one process learned alone."""
    spec = trial(stage).spec(alone.inputs, folder / "nodes")
    outcome, _ = Place(folder).train(spec, request)
    alone.assert_same(stage, outcome)


def _curves(outcome: Outcome) -> Curves:
    return {curve.name: [value for _, value in curve.points] for curve in outcome.curves}
