"""What is asked of an engine, and what it tells of it."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from chatllama_pipeline.errors import EngineError

CLOSED = "the engine was closed"


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen: at `temperature` 0 the likeliest, else by chance.

    `top_p` 1 and `top_k` 0 leave the distribution as it is. A `seed` makes a reply repeatable
    whatever is asked beside it.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None


@dataclass(frozen=True)
class Job:
    """A prompt's ids, and what to write behind it: at most `most` tokens, until one of `stops`."""

    ids: Sequence[int]
    most: int
    stops: frozenset[int]
    sampling: Sampling


class Written(NamedTuple):
    """All ids written so far, the one that stops them included; `error` is "" where all is well."""

    ids: list[int]
    finished: bool
    error: str = ""


Listener = Callable[[Written], None]


class Engine(Protocol):
    """Writes many replies at once, in a thread of its own."""

    @property
    def name(self) -> str:
        """What people are told that it is."""

    @property
    def why(self) -> str:
        """Why it isn't the fast engine that a model gets; "" where it is, or was asked for."""

    @property
    def longest(self) -> int:
        """Most tokens that a prompt and its reply may have together."""

    def start(self, number: str, job: Job, listen: Listener) -> None:
        """Begin `job` under a name of its own; `listen` is called in the running event loop.

        Raises EngineError where the engine can't take it.
        """

    def cancel(self, number: str) -> None:
        """Write no more for that job; one that is unknown or over is no error."""

    def close(self) -> None:
        """End the thread; jobs that are still written end with an error."""


class AskingEngine(ABC):
    """Has a server write its replies: each is asked for in a task of the event loop, whose end is
    the end of its connection."""

    def __init__(self) -> None:
        self._writing: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    @abstractmethod
    def pieces(self, job: Job) -> AsyncGenerator[list[int]]:
        """The reply's tokens, some at a time; raises what ends it."""

    def start(self, number: str, job: Job, listen: Listener) -> None:
        if self._closed:
            raise EngineError(CLOSED)
        write = self._write(number, job, listen)
        self._writing[number] = asyncio.get_running_loop().create_task(write)

    def cancel(self, number: str) -> None:
        # At its connection's end the server stops.
        if task := self._writing.pop(number, None):
            task.cancel()

    def close(self) -> None:
        self._closed = True
        for task in list(self._writing.values()):
            if not (loop := task.get_loop()).is_closed():
                loop.call_soon_threadsafe(task.cancel)

    async def _write(self, number: str, job: Job, listen: Listener) -> None:
        ids: list[int] = []
        error = ""
        try:
            async for piece in self.pieces(job):
                ids += piece
                listen(Written(ids.copy(), finished=False))
        except asyncio.CancelledError:
            if not self._closed:
                raise
            error = CLOSED
        except Exception as failure:
            error = CLOSED if self._closed else f"{type(failure).__name__}: {failure}"
        self._writing.pop(number, None)
        listen(Written(ids, finished=True, error=error))
