"""What ends a training, or lets it go on: non-finite losses, no more progress, collapse, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from chatllama_pipeline.records import Check
from chatllama_pipeline.training import FINITE_LOSS

# Non-finite losses that end the training: so many one after another, or this share of all.
MOST_SKIPPED_IN_A_ROW = 5
MOST_SKIPPED_SHARE = 0.5


@dataclass
class Guard:
    """Counts optimizer steps, and those skipped because loss or gradient was not finite."""

    steps: int = 0
    skipped: int = 0
    in_a_row: int = 0

    def record(self, finite: bool) -> None:
        self.steps += 1
        self.skipped += not finite
        self.in_a_row = 0 if finite else self.in_a_row + 1

    @property
    def tripped(self) -> bool:
        """Whether so many steps in a row were skipped that going on is pointless."""
        return self.in_a_row >= MOST_SKIPPED_IN_A_ROW

    @property
    def passed(self) -> bool:
        return not self.tripped and self.skipped <= MOST_SKIPPED_SHARE * self.steps

    def check(self, cure: str) -> Check:
        """The blocking check `finite_loss`: steps skipped against the most that may be."""
        text = f"{self.skipped} of {self.steps} optimizer steps had a non-finite loss or gradient"
        if self.tripped:
            text += f", {MOST_SKIPPED_IN_A_ROW} of them in a row: training stopped"
        if not self.passed:
            text += f"; {cure}"
        limit = MOST_SKIPPED_SHARE * self.steps
        return Check(FINITE_LOSS, self.passed, True, float(self.skipped), limit, text)


@dataclass
class Best:
    """The best validation figure so far, and for how many passes there was none better."""

    value: float = math.inf
    step: int = 0
    passes_since: int = 0

    def record(self, step: int, value: float) -> bool:
        """Note a figure of which less is better; whether it is the best yet."""
        if value < self.value:
            self.value, self.step, self.passes_since = value, step, 0
            return True
        self.passes_since += 1
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was refused, by CUDA, by torch on the CPU, or by Python."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
