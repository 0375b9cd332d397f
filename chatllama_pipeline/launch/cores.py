"""CPU threads for a stage: a fair part of the cores for each that runs on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.launch.child import cores_at_hand
from chatllama_pipeline.launch.shared import make_shared, standing, those_standing

AT_WORK = "at_work"


@contextlib.contextmanager
def fair_threads(folder: Path, asked: int) -> Iterator[int]:
    """As many threads as `asked`, or where that is 0, the cores by the stages that run now.

    Decided when a stage starts: what runs already keeps its threads.
    """
    make_shared(folder)
    with standing(folder / AT_WORK, str(os.getpid())) as own:
        running = len(list(those_standing(own.parent)))
        yield asked or max(1, cores_at_hand() // max(1, running))
