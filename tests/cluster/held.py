"""The real trainings, as a job's nodes run them, but that they wait amid their steps.

`held.py SPEC.json`: the file `hold` in the run folder says after which step, for as long as it
stands there. What shall befall a training befalls it amid its work, however fast the machine is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.launch.stages import main
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.training.stopping import StopSignals

PATIENCE_SECONDS = 300
TRAININGS = ("reward_model", "actor_sft", "actor_ppo")


class Hold:
    """Where a training shall wait, and whether it does."""

    def __init__(self, run_folder: Path) -> None:
        self._step, self._waits = run_folder / "hold", run_folder / "waits"

    def after(self, step: int) -> None:
        """Have it wait after that step, in this life or another."""
        self._step.parent.mkdir(exist_ok=True)
        self._waits.unlink(missing_ok=True)
        self._step.write_text(str(step))

    def release(self) -> None:
        self._step.unlink()

    def waits(self) -> bool:
        return self._waits.exists()

    def wait(self, step: int) -> None:
        """Wait here where it is time, until it may go on or is asked to stop."""
        patience = time.monotonic() + PATIENCE_SECONDS
        while self._holds(step) and not _is_asked_to_stop():
            self._waits.touch()
            assert time.monotonic() < patience, "nothing befell it"
            time.sleep(0.05)

    def _holds(self, step: int) -> bool:
        with contextlib.suppress(FileNotFoundError):
            return self._step.read_text() == str(step)
        return False


class Held(Progress):
    """Says what the training says, and has its first process wait."""

    def __init__(self, progress: Progress, hold: Hold) -> None:
        super().__init__(progress.name, progress.emit)
        self._hold = hold

    def step(self, done: int, total: int, **figures: float) -> None:
        super().step(done, total, **figures)
        if os.environ.get("RANK", "0") == "0":
            self._hold.wait(done)


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """The training that the spec names."""
    module, function = STAGES[spec.stage].split(":")
    training: Any = getattr(importlib.import_module(module), function)
    outcome: Outcome = training(spec, Held(progress, Hold(Path(spec.run_folder))))
    return outcome


def _is_asked_to_stop() -> bool:
    """Whether the training has got a signal that it obeys once it goes on."""
    signals = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return isinstance(signals, StopSignals) and signals.received is not None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict.fromkeys(TRAININGS, "__main__:run")))
