"""What trainings of several processes start from, and what one process makes of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.resume import make_inputs
from tests.tiny import curves
from tests.training.processes.trials import Curves, run_here, trial_of


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def alone(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Curves]:
    """The curves of a training by one process without DeepSpeed, made once."""
    made: dict[str, Curves] = {}

    def of(training: str) -> Curves:
        if training not in made:
            folder = tmp_path_factory.mktemp(f"{training}_alone")
            made[training] = curves(run_here(trial_of(training), inputs, folder))
        return made[training]

    return of
