"""Where an iteration of ours goes: `python -m benchmarks.against_trl.floor CASE`.

Every kernel of one iteration is written down with its shapes, and afterwards each different one is
run by itself, its operands at hand and nothing around it. A kernel's least seconds there, times how
often the iteration ran it, is its floor: what no other way around the same kernels can pass, for
products at the peak of their very shapes. What is left of a part's seconds is Python, autograd,
and operands that had to be fetched from memory. Seconds are those of all cores, so that nobody
else's work counts.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from benchmarks.against_trl import ours
from benchmarks.against_trl.case import Case
from benchmarks.against_trl.turns import CPU_ATTENTION, OverError, Turns
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.training.ppo import update

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm, *CPU_ATTENTION}
# Of the update: what of it goes where.
FORWARD, BACKWARD, STEP, REST = "update: forward", "update: backward", "update: step", "the rest"
PARTS = ("decode", "score", "reward", FORWARD, BACKWARD, STEP, REST)
# The first iteration warms up, the second is written down, the others are timed.
BEFORE, TIMED = 2, 5
TRIES, TRIED_FOR = 7, 0.2
Key = tuple[Any, ...]


class Kernels(TorchDispatchMode):
    """Writes down each kernel that runs within it, under the part that runs just then."""

    def __init__(self, now: Callable[[], str]) -> None:
        super().__init__()
        self.now = now
        self.seen: defaultdict[str, Counter[Key]] = defaultdict(Counter)
        self.given: dict[Key, tuple[Any, Any, Any]] = {}

    def __torch_dispatch__(self, kernel: Any, types: Any, args: Any = (), more: Any = None) -> Any:
        more = more or {}
        if not torch._C._dispatch_has_kernel_for_dispatch_key(kernel.name(), "CPU"):
            # Where nothing records gradients, some arrive whole that are made of others.
            with self:
                made = kernel.decompose(*args, **more)
            if made is not NotImplemented:
                return made
        key = (kernel, *map(_shape, tree_flatten((args, more))[0]))
        if key not in self.given:
            self.given[key] = (kernel, *tree_map(_copy, (args, more)))
        self.seen[self.now()][key] += 1
        return kernel(*args, **more)


class Parts(Turns):
    """Lets an iteration warm up, has the kernels of the next written down, times the others."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.found = list[dict[str, float]]()
        self.within: list[str] = []
        self.kernels = Kernels(lambda: self.within[-1] if self.within else REST)
        self.done = 0

    def begin(self) -> None:
        self._start()

    def _now(self) -> float:
        """Seconds of all cores: nobody else's work counts."""
        return time.process_time()

    def over(self) -> None:
        """An iteration is over. Raises OverError where no other follows."""
        total = self._now() - self._started
        self.done += 1
        if self.done == BEFORE:
            self.kernels.__exit__(None, None, None)
        elif self.done > BEFORE:
            named = dict(self._seconds)
            self.found.append({**named, REST: total - sum(named.values())})
        if self.done == BEFORE + TIMED:
            raise OverError
        if self.done == BEFORE - 1:
            self.kernels.__enter__()
        self._start()

    def measured(
        self, whole: Callable[..., Any], phase: str | Callable[..., str | None]
    ) -> Callable[..., Any]:
        """`whole`, whose seconds are those of a part, less what parts within it take."""

        def call(*args: Any, **more: Any) -> Any:
            with self.part(str(phase)):
                return whole(*args, **more)

        return call

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = self._now()
        self.within.append(name)
        try:
            yield
        finally:
            self.within.pop()
            taken = self._now() - started
            self._seconds[name] += taken
            if self.within:
                self._seconds[self.within[-1]] -= taken

    def table(self) -> dict[str, dict[str, float]]:
        """Of each part its seconds, and the least that its products and its other kernels take."""
        least: dict[Key, float] = {}
        found = {}
        for part in PARTS:
            floors = {"products": 0.0, "other kernels": 0.0}
            for key, times in self.kernels.seen[part].items():
                if key not in least:
                    least[key] = _least(*self.kernels.given.pop(key))
                product = key[0].overloadpacket in PRODUCTS
                floors["products" if product else "other kernels"] += times * least[key]
            seconds = statistics.median(told.get(part, 0.0) for told in self.found)
            found[part] = {"seconds": seconds, **floors}
        return found


def main() -> None:
    case = Case.from_json(sys.argv[1])
    quiet_transformers()
    parts = Parts(case)
    parts.timed(update, "minibatch_gradients", FORWARD)
    parts.timed(torch.Tensor, "backward", BACKWARD)
    parts.timed(torch.optim.AdamW, "step", STEP)
    parts.timed(torch.nn.utils, "clip_grad_norm_", STEP)
    ours.run(case, parts)
    parts.tell(parts.table())


def _shape(given: Any) -> Any:
    if isinstance(given, torch.Tensor):
        return (tuple(given.shape), given.stride(), given.dtype)
    return given if isinstance(given, int | float | bool | str | None) else str(given)


def _laid(given: torch.Tensor) -> tuple[Any, Any]:
    return given.shape, given.stride()


def _copy(given: Any) -> Any:
    if not isinstance(given, torch.Tensor):
        return given
    # As it lay: a view of a cache is read with its gaps.
    steps = zip(given.shape, given.stride(), strict=True)
    spanned = 1 + sum((size - 1) * step for size, step in steps) if given.numel() else 0
    return given.detach().as_strided((spanned,), (1,)).clone().as_strided(*_laid(given))


def _least(kernel: Any, args: Any, more: Any) -> float:
    taken: list[float] = []
    with torch.inference_mode():
        while len(taken) < TRIES and sum(taken) < TRIED_FOR:
            started = time.process_time()
            kernel(*args, **more)
            taken.append(time.process_time() - started)
    return min(taken)


if __name__ == "__main__":
    main()
