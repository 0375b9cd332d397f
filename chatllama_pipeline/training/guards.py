"""What ends a training, or lets it go on: non-finite losses, no more progress, collapse, memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from chatllama_pipeline.records import Check
from chatllama_pipeline.training import COLLAPSE, FINITE_LOSS

# Non-finite losses that end the training: so many one after another, or this share of all.
MOST_SKIPPED_IN_A_ROW = 5
MOST_SKIPPED_SHARE = 0.5
# PPO iterations that say what is usual, and those in a row beyond a limit that are a collapse.
USUAL_ITERATIONS = 3
COLLAPSED_IN_A_ROW = 3
SAMPLES, SAMPLE_CHARACTERS = 3, 120


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


@dataclass
class Collapse:
    """Whether PPO's replies became repetitions, shrank to nothing, or stopped ending.

    The first iterations say what was usual; a figure beyond its limit so many times in a row is
    no accident any more. `found` says what and shows samples.
    """

    usual: dict[str, float] = field(default_factory=dict)
    iterations: int = 0
    in_a_row: dict[str, int] = field(default_factory=dict)
    found: str | None = None

    def record(
        self, iteration: int, figures: dict[str, float], replies: Sequence[str], share: float
    ) -> None:
        """Note an iteration's figures (see `rollout_figures`) and replies."""
        if self.iterations < USUAL_ITERATIONS:
            for name in ("distinct_2", "reply_tokens", "share_finished"):
                self.usual[name] = self.usual.get(name, 0.0) + figures[name] / USUAL_ITERATIONS
            self.iterations += 1
            return
        signs = {
            "replies repeat themselves: distinct_2": "distinct_2",
            "replies shrink: reply_tokens": "reply_tokens",
            "replies no longer end: share_finished": "share_finished",
        }
        for sign, name in signs.items():
            below = figures[name] < share * self.usual[name]
            self.in_a_row[name] = self.in_a_row.get(name, 0) + 1 if below else 0
            if self.in_a_row[name] >= COLLAPSED_IN_A_ROW and self.found is None:
                shown = "; ".join(repr(text[:SAMPLE_CHARACTERS]) for text in replies[:SAMPLES])
                self.found = (
                    f"{sign} {figures[name]:.3g} in iteration {iteration}, at first it was "
                    f"{self.usual[name]:.3g}. Samples: {shown}"
                )

    def check(self, blocking: bool) -> Check:
        """The check `collapse`, with the cure."""
        text = self.found or "replies kept their variety and length, and ended"
        if self.found is not None:
            text += (
                "; raise trainer_config.kl_beta, lower actor_lr or epochs, or look at what the "
                "reward model prefers"
            )
        failed = self.found is not None
        return Check(COLLAPSE, not failed, blocking, float(failed), 0.0, text)
