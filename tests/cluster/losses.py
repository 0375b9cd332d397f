"""Whether the nodes of a cluster learn what one process learns."""

from __future__ import annotations

from pathlib import Path

from benchmarks.resume import Trial, finish
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.records import Outcome
from tests.cluster.place import Place


def assert_same_losses(trial: Trial, inputs: Path, folder: Path, request: Request) -> None:
    """Train alone and as a job; every loss and score of each step is the same to 1e-3."""
    spec = trial.spec(inputs, folder / "alone")
    finish(trial.start(folder / "alone"), folder / "alone")
    expected = _curves(Outcome.read(Path(spec.result)))
    outcome, _ = Place(folder).train(trial.spec(inputs, folder / "nodes"), request)
    found = _curves(outcome)
    watched = [name for name in expected if "loss" in name or name == "score"]
    assert watched
    for name in watched:
        for one, other in zip(found[name], expected[name], strict=True):
            assert abs(one - other) < 1e-3, name


def _curves(outcome: Outcome) -> dict[str, list[float]]:
    return {curve.name: [value for _, value in curve.points] for curve in outcome.curves}
