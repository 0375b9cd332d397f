"""One line every few seconds from anything long: step, figures, rate, time left."""

from __future__ import annotations

import time
from collections.abc import Callable

Emit = Callable[[str], None]


class Progress:
    """Rate-limited progress lines.

    `emit` takes a finished line. The first and the last step always speak, so that a short
    stage shows both ends.
    """

    def __init__(self, name: str, emit: Emit, every_seconds: float = 3.0) -> None:
        self.name = name
        self.emit = emit
        self.every_seconds = every_seconds
        self._first: tuple[float, int] | None = None
        self._last_spoken = 0.0

    def say(self, text: str) -> None:
        self.emit(f"{self.name}: {text}")

    def step(self, done: int, total: int, **figures: float) -> None:
        """Report that `done` of `total` steps are behind us; `figures` are named values."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        elif done < total and now - self._last_spoken < self.every_seconds:
            return
        self._last_spoken = now
        started, first_done = self._first
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        line = f"step {done}/{total}  {shown}"
        if done > first_done and now > started:
            rate = (done - first_done) / (now - started)
            left = (total - done) / rate
            line += f"  {rate:.3g} steps/s  {left:.0f} s left"
        self.say(line)
