"""Where rows are noted: here, or by processes that share what is known of texts."""

from __future__ import annotations

import os
import weakref
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Literal

import pyarrow as pa

from chatllama_pipeline.data.prepare.notes import Notes, Reading
from chatllama_pipeline.data.spill.known import shared_file
from chatllama_pipeline.data.workers.batches import worked

Task = Literal["rows", "trusted", "held_out"]


class Desk:
    """Notes rows as a reading says."""

    def __init__(self, reading: Reading, folder: Path) -> None:
        self._reading = reading
        self._files = [shared_file(slots, folder) for slots in reading.slots]
        for file in self._files:
            weakref.finalize(self, os.close, file)
        self._reader = reading.opened(self._files)

    def read(self, task: Task, tables: Iterable[pa.Table]) -> Generator[tuple[pa.Table, Notes]]:
        """Each table with its notes, in their order."""
        yield from worked(
            tables, task, self._reading, lambda table: table.num_rows, self._files, self._reader
        )
