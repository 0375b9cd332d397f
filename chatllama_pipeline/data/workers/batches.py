"""Batches in their order, each with what was made of it: here while they are few, else by several
processes, to which they are handed out and from which they are taken back in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol, TypeVar

from chatllama_pipeline.data.workers.processes import Trade, Workers, workers_asked

# Fewer rows are noted before processes have started.
LEAST_ROWS = 20_000

Batch = TypeVar("Batch")


class Hands(Protocol):
    """Who works on batches, `count` at a time."""

    count: int

    def ask(self, task: str, batch: object) -> Future[Any]: ...


Start = Callable[[Trade], AbstractContextManager[Hands]]
_ELSEWHERE: ContextVar[Start | None] = ContextVar("elsewhere", default=None)


@contextmanager
def working_elsewhere(start: Start) -> Iterator[None]:
    """In this block rows that are many are worked on by those whom `start` gives of a trade."""
    before = _ELSEWHERE.set(start)
    try:
        yield
    finally:
        _ELSEWHERE.reset(before)


def worked(
    batches: Iterable[Batch],
    task: str,
    trade: Trade,
    rows_of: Callable[[Batch], int],
    files: Sequence[int] = (),
    here: Any = None,
    least_rows: int | None = None,
) -> Generator[tuple[Batch, Any]]:
    """Each batch with what the trade's method `task` makes of it.

    `files` are descriptors that processes of this machine share; `here` is the trade opened
    already, if it is; `least_rows` (None: `LEAST_ROWS`) are worth processes.
    """
    batches, first, rows = iter(batches), [], 0
    elsewhere, count, least = _ELSEWHERE.get(), workers_asked(), least_rows or LEAST_ROWS
    several = elsewhere is not None or count > 1
    while rows < least and several and (batch := next(batches, None)) is not None:
        first.append(batch)
        rows += rows_of(batch)
    if rows < least:
        work = getattr(trade.opened(files) if here is None else here, task)
        for given in (first, batches):
            for batch in given:
                yield batch, work(batch)
        return
    started = elsewhere(trade) if elsewhere else Workers(count, trade, files)
    with started as workers:
        waiting: deque[tuple[Batch, Future[Any]]] = deque()
        for given in (first, batches):
            for batch in given:
                waiting.append((batch, workers.ask(task, batch)))
                if len(waiting) > 2 * workers.count:
                    batch, told = waiting.popleft()
                    yield batch, told.result()
        for batch, told in waiting:
            yield batch, told.result()
