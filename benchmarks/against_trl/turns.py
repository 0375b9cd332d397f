"""A side's end of the measurement: its clock, its phases, and when its next iteration may begin."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, TextIO

import torch
from torch.utils.flop_counter import (
    FlopCounterMode,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.against_trl.case import Case
from chatllama_pipeline.machine import own_bytes, peak_bytes

# A CPU's attention, which torch's counter doesn't know; of shapes.
CPU_ATTENTION: dict[Any, Callable[..., int]] = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: (
        lambda query, key, value, *rest, **more: sdpa_flop_count(query, key, value)
    ),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda gradient, query, key, value, *rest, **more: sdpa_backward_flop_count(
            gradient, query, key, value
        )
    ),
}
GO, END = "go", "end"


class OverError(Exception):
    """The parent has seen enough."""


class Turns:
    """Tells the parent of every iteration in a line, and waits for its word before the next.

    The first iteration warms up: what it multiplies is counted, and its seconds are of no use.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.tokens = 0
        # Memory before the models were made, and once they stand.
        self.imported = self.held = own_bytes(case.device)
        self._by_wall = case.device == "cuda" or torch.get_num_threads() > 1
        self._to_parent = _own_stdout()
        self._counter: FlopCounterMode | None = None
        self._seconds: defaultdict[str, float] = defaultdict(float)
        self._flops: defaultdict[str, int] = defaultdict(int)
        self._started = 0.0

    def begin(self) -> None:
        """The models stand; the first iteration follows."""
        self.held = own_bytes(self.case.device)
        self._counter = FlopCounterMode(display=False, custom_mapping=CPU_ATTENTION)
        self._counter.__enter__()
        self._start()

    def over(self) -> None:
        """An iteration is over. Raises OverError where no other follows."""
        total = self._now() - self._started
        if self._counter is not None:
            self._flops["all"] = self._counter.get_total_flops()
            self._counter.__exit__(None, None, None)
            self._counter = None
        told = {
            "seconds": {**self._seconds, "all": total},
            "flops": self._flops,
            "tokens": self.tokens,
            "peak": peak_bytes(self.case.device) - self.imported,
            "held": self.held - self.imported,
        }
        self.tell(told)
        if sys.stdin.readline().strip() != GO:
            raise OverError
        self._start()

    def tell(self, found: Any) -> None:
        """Let the parent hear `found`, plain data, in a line."""
        print(json.dumps(found), file=self._to_parent, flush=True)

    def timed(self, place: Any, name: str, phase: str | Callable[..., str | None]) -> None:
        """Measure what `place` calls `name`, from here on."""
        setattr(place, name, self.measured(getattr(place, name), phase))

    def measured(
        self, whole: Callable[..., Any], phase: str | Callable[..., str | None]
    ) -> Callable[..., Any]:
        """`whole`, which adds its seconds and products to a phase.

        A function as `phase` is asked with the call's arguments; None adds to nothing.
        """

        @functools.wraps(whole)
        def call(*args: Any, **more: Any) -> Any:
            chosen = phase if isinstance(phase, str) else phase(*args, **more)
            if chosen is None:
                return whole(*args, **more)
            started, before = self._now(), self._counted()
            try:
                return whole(*args, **more)
            finally:
                self._seconds[chosen] += self._now() - started
                self._flops[chosen] += self._counted() - before

        return call

    def _start(self) -> None:
        self._seconds.clear()
        self.tokens = 0
        self._started = self._now()

    def _counted(self) -> int:
        return self._counter.get_total_flops() if self._counter else 0

    def _now(self) -> float:
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        # On one core, what others take of it meanwhile is no part of a side's time.
        return time.perf_counter() if self._by_wall else time.process_time()


def _own_stdout() -> TextIO:
    """What leads to the parent; whatever else prints goes to stderr from here on."""
    ours = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return ours
