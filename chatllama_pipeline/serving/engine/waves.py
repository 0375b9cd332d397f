"""Batches of requests that began together, for models that continuous batching can't read.

Encoder-decoders, recurrent models and those whose cache is of no use are decoded here in their own
manner (`models.decoding`). Waves take turns, a token each: nobody waits for another's end.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.models.families.decoding import Decoding, decoding
from chatllama_pipeline.serving.engine.jobs import CLOSED, Job, Listener, Written
from chatllama_pipeline.serving.engine.sampling import Chances, choose
from chatllama_pipeline.training.ppo.rollout import pad_left


class WavesEngine:
    """Up to `streams` rows at once; the rest wait for the end of one."""

    name = "batches that begin together"
    # Whether all others wait for the end of the wave that is written.
    one_at_a_time = False

    def __init__(
        self, model: Any, pad_id: int, streams: int, context: int, device: Any = None
    ) -> None:
        """`device`: where the model takes ids, if its weights don't stand there."""
        self._model, self._pad_id, self._streams = model, pad_id, streams
        self._device = model.device if device is None else device
        self.longest, self.why = context, ""
        self._changed = threading.Condition()
        self._waiting: list[_Row] = []
        self._cancelled: set[str] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="waves", daemon=True)
        self._thread.start()

    def start(self, number: str, job: Job, listen: Listener) -> None:
        row = _Row(number, job, listen, asyncio.get_running_loop())
        with self._changed:
            if self._closing:
                raise EngineError(CLOSED)
            self._waiting.append(row)
            self._changed.notify()

    def cancel(self, number: str) -> None:
        with self._changed:
            before = len(self._waiting)
            self._waiting = [row for row in self._waiting if row.number != number]
            if len(self._waiting) == before:
                self._cancelled.add(number)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @torch.inference_mode()
    def _run(self) -> None:
        waves: list[_Wave] = []
        while True:
            fresh, cancelled, closing = self._news(waves)
            for wave in waves:
                wave.drop(cancelled)
            if closing:
                _tell([*fresh, *(row for wave in waves for row in wave.rows)], CLOSED)
                return
            if fresh:
                _guarded(fresh, partial(self._begin, waves, fresh))
            for wave in waves:
                _guarded(wave.rows, wave.step)
            waves = [wave for wave in waves if wave.rows]

    def _begin(self, waves: list[_Wave], rows: list[_Row]) -> None:
        ids, mask = pad_left([row.job.ids for row in rows], self._pad_id)
        growing = self._decoding(ids, mask, max(row.job.most for row in rows))
        waves.append(_Wave(growing, rows, self._device))

    def _decoding(self, ids: Tensor, mask: Tensor, columns: int) -> Decoding:
        return decoding(self._model, ids.to(self._device), mask.to(self._device), columns)

    def _news(self, waves: list[_Wave]) -> tuple[list[_Row], set[str], bool]:
        """The rows that may begin, those that must end, and whether all must; waits for work."""
        with self._changed:
            while not (waves or self._waiting or self._closing):
                # Whoever was cancelled behind its end is forgotten.
                self._cancelled.clear()
                self._changed.wait()
            room = self._streams - sum(len(wave.rows) for wave in waves)
            if self.one_at_a_time and waves:
                room = 0
            fresh = self._waiting[: max(room, 0)]
            del self._waiting[: len(fresh)]
            cancelled, self._cancelled = self._cancelled, set()
            rows = [*fresh, *self._waiting] if self._closing else fresh
            return rows, cancelled, self._closing


class _Row:
    """A request that is being written."""

    def __init__(
        self, number: str, job: Job, listen: Listener, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.number, self.job, self.listen, self.loop = number, job, listen, loop
        self.chances = Chances(job.sampling)
        self.ids: list[int] = []
        self.finished = False

    def take(self, token: int) -> Written:
        self.ids.append(token)
        self.finished = token in self.job.stops or len(self.ids) >= self.job.most
        return Written(self.ids.copy(), self.finished)


class _Wave:
    """Rows that are decoded as one batch."""

    def __init__(self, growing: Decoding, rows: list[_Row], device: Any) -> None:
        self._growing, self.rows, self._device = growing, rows, device

    def step(self) -> None:
        """A token more for every row."""
        tokens = choose(self._growing.next_logits(), [row.chances for row in self.rows])
        _hand_over(
            [(row, row.take(token)) for row, token in zip(self.rows, tokens.tolist(), strict=True)]
        )
        if not all(row.finished for row in self.rows):
            self._growing.append(tokens)
        self._keep([row for row in self.rows if not row.finished])

    def drop(self, numbers: set[str]) -> None:
        """Go on without the rows of these names."""
        self._keep([row for row in self.rows if row.number not in numbers])

    def _keep(self, rows: list[_Row]) -> None:
        if rows and len(rows) < len(self.rows):
            kept = [place for place, row in enumerate(self.rows) if row in rows]
            self._growing.keep(torch.tensor(kept, device=self._device))
        self.rows[:] = rows


def _guarded(rows: list[_Row], work: Callable[[], None]) -> None:
    """Do `work` of these rows; an error ends them, and nobody else."""
    try:
        work()
    except Exception as error:
        _tell(rows, f"{type(error).__name__}: {error}")
        rows.clear()


def _tell(rows: list[_Row], error: str) -> None:
    _hand_over([(row, Written(row.ids, finished=True, error=error)) for row in rows])


def _hand_over(told: list[tuple[_Row, Written]]) -> None:
    def deliver(told: list[tuple[_Row, Written]]) -> None:
        for row, written in told:
            row.listen(written)

    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Row, Written]]] = {}
    for row, written in told:
        by_loop.setdefault(row.loop, []).append((row, written))
    for loop, part in by_loop.items():
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, part)
