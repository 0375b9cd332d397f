"""What a probe finds wrong, before it is said of which model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


class Failure(Exception):
    """The model `does` something that no stage could live with, so that `therefore`."""

    def __init__(self, does: str, therefore: str) -> None:
        super().__init__(f"{does}: {therefore}")


@dataclass(frozen=True)
class Off:
    """How far a reading is off, or the error that it ended in."""

    apart: float
    error: str = ""

    def within(self, tolerance: float) -> bool:
        return self.apart <= tolerance

    def told(self, unit: str) -> str:
        """The difference in words, `unit` being that of its number."""
        return self.error or f"off by {self.apart:.2g} {unit}"


def tried(reading: Callable[[], float]) -> Off:
    """Call `reading`; whatever a family's code raises when it is used in a way it doesn't know."""
    try:
        return Off(reading())
    except Exception as error:  # a family's own code may fail in any way
        reason = next(iter(str(error).strip().splitlines()), "")
        return Off(math.inf, f"{type(error).__name__}: {reason}")
