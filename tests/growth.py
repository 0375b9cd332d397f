"""How the work of a function grows with its input, on whatever machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Input = TypeVar("Input")

TIMES = 8
TRIES = 5
# In proportion to its input work grows 8 times, by the square 64 times.
MOST = 24.0


def grows_in_proportion(
    work: Callable[[Input], object], make: Callable[[int], Input], size: int
) -> bool:
    """Whether `work` on `make(size)` takes about as many times as long as on an eighth of it.

    What else the machine does can only prolong a try, so the shortest of some counts.
    """
    small, large = make(size // TIMES), make(size)
    least = most = float("inf")
    for _ in range(TRIES):
        least = min(least, _seconds(work, small))
        most = min(most, _seconds(work, large))
        if most < MOST * least:
            return True
    return False


def _seconds(work: Callable[[Input], object], given: Input) -> float:
    begun = time.process_time()
    work(given)
    return time.process_time() - begun
