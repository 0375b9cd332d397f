"""What long work says: a line every few seconds with what is done and what is left.

Steps of a training speak through `Progress.step`. Everything else that may last counts in a `phase`
or is looked at by `watching`: both speak to the progress of whoever listens (`listening`), and say
nothing of what is over in a few seconds.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import TypeVar

Emit = Callable[[str], None]
MEGABYTE = 10**6
# Seconds between two looks, at least.
SHORTEST_PAUSE = 0.005
Item = TypeVar("Item")


class Progress:
    """Rate-limited progress lines.

    `emit` takes a finished line. The first and the last step always speak, so that a short
    stage shows both ends; a phase speaks once it has lasted `first_seconds`.
    """

    def __init__(
        self, name: str, emit: Emit, every_seconds: float = 3.0, first_seconds: float = 6.0
    ) -> None:
        self.name = name
        self.emit = emit
        self.every_seconds = every_seconds
        self.first_seconds = first_seconds
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


_LISTENER: ContextVar[Progress | None] = ContextVar("listener", default=None)


@contextlib.contextmanager
def listening(progress: Progress) -> Iterator[None]:
    """Phases begun in this block speak to `progress`."""
    before = _LISTENER.set(progress)
    try:
        yield
    finally:
        _LISTENER.reset(before)


def saying() -> Callable[[str], None]:
    """How to say a line to whoever listens now, from another thread too."""
    progress = _LISTENER.get()
    return progress.say if progress else lambda line: None


class Phase:
    """Counts towards `total` of some `unit`; see `phase`."""

    def __init__(self, name: str, total: float, unit: str, progress: Progress | None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = 0.0
        self._progress = progress
        self._started = time.monotonic()
        self._spoken: float | None = None

    def advance(self, count: float = 1) -> None:
        """So much more is done."""
        self.reach(self.done + count)

    def reach(self, done: float) -> None:
        """So much is done by now."""
        self.done = done
        if self._progress is None:
            return
        now = time.monotonic()
        due = self._progress.first_seconds + self._started
        if self._spoken is not None:
            due = self._progress.every_seconds + self._spoken
        if now >= due:
            self._spoken = now
            self._progress.say(self._line(now - self._started))

    def _line(self, seconds: float) -> str:
        if self.done <= 0:
            return f"{self.name}: {_duration(seconds)} so far"
        if self.done > self.total:  # nobody knows how much there is
            shown = f"{self.done:,.0f} {self.unit}".rstrip()
            return f"{self.name}: {shown} in {_duration(seconds)}"
        shown = f"{self.done:,.0f} of {self.total:,.0f} {self.unit}".rstrip()
        left = seconds * (self.total - self.done) / self.done
        return f"{self.name}: {shown}, {_duration(left)} left"


def phase(name: str, total: float, unit: str = "") -> Phase:
    """A counter of something that may last; what it counts should take about equally long each."""
    return Phase(name, total, unit, _LISTENER.get())


def counted(
    name: str,
    items: Iterable[Item],
    total: float,
    unit: str = "",
    size: Callable[[Item], float] = lambda item: 1,
) -> Iterator[Item]:
    """`items` as a phase; their sizes, 1 each if nothing is said, add up to `total`."""
    counter = phase(name, total, unit)
    for item in items:
        yield item
        counter.advance(size(item))


@contextlib.contextmanager
def watching(
    name: str, total: float, measure: Callable[[], float], unit: str = ""
) -> Iterator[None]:
    """Look at work that can't count itself: `measure()` says from time to time how much is done."""
    counter, over = phase(name, total, unit), threading.Event()
    progress = _LISTENER.get()
    if progress is None:
        yield
        return
    # A folder may change while it is looked at.
    before = 0.0
    with contextlib.suppress(OSError):
        before = measure()

    def look() -> None:
        pause = progress.first_seconds
        while not over.wait(max(pause, SHORTEST_PAUSE)):
            with contextlib.suppress(OSError):
                counter.reach(max(0.0, measure() - before))
            pause = progress.every_seconds

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def growing(folder: Path) -> Callable[[], float]:
    """A measure for `watching`: the megabytes that stand under `folder`."""
    return lambda: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) / MEGABYTE


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"
