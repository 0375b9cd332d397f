"""Rows are noted here or, where they are many, by several processes; the notes are the same.

Batches are handed out and taken back in their order. A worker hears of its end on its standard
input, and the kernel ends it with the thread that started it: it outlives nothing.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Literal

import pyarrow as pa

from chatllama_pipeline.data.prepare.notes import Notes, Reading, RowReader
from chatllama_pipeline.data.spill.known import Known, shared_file, slots_for
from chatllama_pipeline.errors import ChildError, SettingsError
from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import child_environment, cores_at_hand

VARIABLE = "CHATLLAMA_DATA_WORKERS"
# Fewer rows are noted before workers have started.
LEAST_ROWS = 20_000
# Texts that a row has, about, and of how many rows one has texts that must be tokenized.
_TEXTS_PER_ROW, _ROWS_PER_TOKENIZED = 2, 4

Task = Literal["rows", "trusted", "held_out"]


def workers_asked() -> int:
    """How many processes note rows: what `VARIABLE` says, else as many as there are cores."""
    named = os.environ.get(VARIABLE, "").strip()
    if not named:
        return cores_at_hand()
    if not named.isdecimal() or int(named) < 1:
        raise SettingsError(f"{VARIABLE} is {named!r}; set it to a number of processes, 1 or more")
    return int(named)


class Desk:
    """Where rows are noted; about `expected` rows come."""

    def __init__(self, reading: Reading, folder: Path, expected: int) -> None:
        self._reading = reading
        texts = slots_for(_TEXTS_PER_ROW * expected)
        counts = slots_for(expected // _ROWS_PER_TOKENIZED)
        self._files = [shared_file(slots, folder) for slots in (texts, counts)]
        for file in self._files:
            weakref.finalize(self, os.close, file)
        self._reader = RowReader(reading, *map(Known, self._files))

    def read(self, kind: Task, tables: Iterable[pa.Table]) -> Generator[tuple[pa.Table, Notes]]:
        """Each table with its notes, in their order."""
        tables, first, rows = iter(tables), [], 0
        count = workers_asked()
        while rows < LEAST_ROWS and count > 1 and (table := next(tables, None)) is not None:
            first.append(table)
            rows += table.num_rows
        if rows < LEAST_ROWS:
            note = getattr(self._reader, kind)
            for batch in (*first, *tables):
                yield batch, note(batch)
            return
        with Workers(count, self._reading, self._files) as workers:
            waiting: deque[tuple[pa.Table, Future[Notes]]] = deque()
            for batches in (first, tables):
                for batch in batches:
                    waiting.append((batch, workers.ask(kind, batch)))
                    if len(waiting) > 2 * count:
                        table, notes = waiting.popleft()
                        yield table, notes.result()
            for table, notes in waiting:
                yield table, notes.result()


class Workers:
    """Processes that note rows, each asked by a thread of its own."""

    def __init__(self, count: int, reading: Reading, files: list[int]) -> None:
        self._idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count, "workers")
        command = [sys.executable, "-m", __name__, *map(str, files)]
        environment = child_environment(1, {**os.environ, shim.PARENT_VARIABLE: str(os.getpid())})
        try:
            for _ in range(count):
                process = subprocess.Popen(
                    shim.through_shim(command),
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    pass_fds=files,
                    start_new_session=True,
                )
                self._processes.append(process)
                _send(process.stdin, reading)
                self._idle.put(process)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def ask(self, kind: Task, table: pa.Table) -> Future[Notes]:
        """The notes of a table, once a worker has made them."""
        return self._threads.submit(self._asked, kind, table)

    def _asked(self, kind: Task, table: pa.Table) -> Notes:
        process = self._idle.get()
        try:
            _send(process.stdin, (kind, table))
            told = pickle.load(process.stdout)  # type: ignore[arg-type]
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise _ended(process) from error
        finally:
            self._idle.put(process)
        if isinstance(told, BaseException):
            raise told
        notes: Notes = told
        return notes

    def close(self) -> None:
        """End the processes, at work or not."""
        for process in self._processes:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _shut(pipe)


def _shut(pipe: Any) -> None:
    try:
        pipe.close()
    # What was to be written when the worker ended.
    except OSError:
        return


def _ended(process: subprocess.Popen[bytes]) -> ChildError:
    code = process.wait()
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    memory = "the kernel does so where memory ends; " if code == -9 else ""
    return ChildError(
        f"a process that notes rows (pid {process.pid}) {how} before it was done; {memory}nothing "
        f"was written. Run again, with {VARIABLE}=1 if memory is short"
    )


def _send(pipe: Any, what: object) -> None:
    pickle.dump(what, pipe, protocol=5)
    pipe.flush()


def main() -> None:
    """Note what comes on standard input until it ends."""
    receive, send = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints must not stand among the notes.
    os.dup2(2, 1)
    reader = RowReader(pickle.load(receive), *(Known(int(file)) for file in sys.argv[1:]))
    while True:
        try:
            kind, table = pickle.load(receive)
        except EOFError:
            return
        try:
            told = getattr(reader, kind)(table)
        # Whatever it is, it is raised again where the rows come from.
        except Exception as error:
            told = error
        _send(send, told)


if __name__ == "__main__":
    main()
