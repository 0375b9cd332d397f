"""Which engine a model gets: the fast one where it writes what the model's own manner does."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, Sequence
from time import monotonic
from typing import Any

import torch

from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.families.manner import manner_of
from chatllama_pipeline.serving.engine.jobs import Engine, Job, Sampling, Written
from chatllama_pipeline.serving.engine.paged import PagedEngine
from chatllama_pipeline.serving.engine.waves import WavesEngine

# Prompts of unlike lengths, so that rows stand side by side that began apart.
TRIED_LENGTHS = (3, 11, 6)
TRIED_TOKENS = 6
TRIED_SECONDS = 60.0
# Between two looks at a reply: small models write faster than anyone reads, and each look costs. It
# is so long for every reply that is written, within these bounds.
PAUSE_OF_EACH = 0.02
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 0.25
# The replies that are written now, whichever engine writes them.
_written_now: set[str] = set()
_numbers = itertools.count()


def open_engine(model: Any, pad_id: int, streams: int, context: int) -> Engine:
    """Continuous batching where `model` can be read so, else batches that begin together.

    It is tried: the same greedy tokens must come of both, for prompts of a few lengths. The latter
    say in `why` what stood in the way.
    """
    waves = WavesEngine(model, pad_id, streams, context)
    manner = manner_of(model.config)
    if kind_of(model.config) is not Kind.CAUSAL:
        kind = f"{type(model).__name__} is {kind_of(model.config).value}"
        waves.why = f"continuous batching is for decoder-only models, and {kind}"
    elif manner.steps != "cached":
        waves.why = f"continuous batching decodes token by token, and this model {manner}"
    else:
        paged, waves.why = _tried(model, waves, streams, context)
        if paged is not None:
            waves.close()
            return paged
    return waves


def _tried(
    model: Any, waves: WavesEngine, streams: int, context: int
) -> tuple[PagedEngine | None, str]:
    """Continuous batching where it writes what `waves` does; else None, and why not."""
    jobs, paged = _tries(model, context), None
    try:
        expected = asyncio.run(_replies(waves, jobs))
        paged = PagedEngine(model, streams, context)
        told = asyncio.run(asyncio.wait_for(_replies(paged, jobs), TRIED_SECONDS))
    except TimeoutError:
        why = f"continuous batching took more than {TRIED_SECONDS:g} s for three short replies"
    except Exception as error:
        # Whatever it trips over, it is not for this model.
        why = f"continuous batching failed on it: {type(error).__name__}: {error}"
    else:
        if told == expected:
            return paged, ""
        errors = [f": {one.error}" for one in told if one.error]
        why = "continuous batching writes other tokens than the model does alone"
        why = f"continuous batching failed on it{errors[0]}" if errors else why
    if paged is not None:
        paged.close()
    return None, why


async def written(engine: Engine, job: Job) -> AsyncGenerator[Written]:
    """What `engine` has written of `job`, first as soon as there is any, last of all its end.

    In between once in a pause, and those that are written side by side in one turn of the event
    loop. Close it (`contextlib.aclosing`): a job that nobody reads any more is cancelled.
    """
    number, news = f"job-{next(_numbers)}", asyncio.Event()
    last = read = Written([], finished=False)
    due = 0.0

    def listen(told: Written) -> None:
        nonlocal last
        last = told
        # No timer wakes the reader: each one would interrupt the thread that writes.
        if told.finished or monotonic() >= due:
            news.set()

    engine.start(number, job, listen)
    _written_now.add(number)
    try:
        while not read.finished:
            await news.wait()
            news.clear()
            pause = pause_seconds(len(_written_now))
            # The same for all that pause so long.
            read, due = last, (monotonic() // pause + 1) * pause
            yield read
    finally:
        _written_now.discard(number)
        if not last.finished:
            engine.cancel(number)


def pause_seconds(replies: int) -> float:
    """How long each of so many replies pauses between two looks."""
    return min(max(replies * PAUSE_OF_EACH, SHORTEST_PAUSE), LONGEST_PAUSE)


def _tries(model: Any, context: int) -> list[Job]:
    rows = model.get_input_embeddings().weight.shape[0]
    chance = torch.Generator().manual_seed(0)
    lengths = [length for length in TRIED_LENGTHS if length + TRIED_TOKENS <= context] or [1]
    return [
        Job(
            torch.randint(rows, (length,), generator=chance).tolist(),
            min(TRIED_TOKENS, max(context - length, 1)),
            frozenset(),
            Sampling(0.0),
        )
        for length in lengths
    ]


async def _replies(engine: Engine, jobs: Sequence[Job]) -> list[Written]:
    async def last(job: Job) -> Written:
        async with contextlib.aclosing(written(engine, job)) as steps:
            return [told async for told in steps][-1]

    return await asyncio.gather(*(last(job) for job in jobs))
