"""Models are loaded by one thread at a time."""

from __future__ import annotations

import threading
from pathlib import Path

from chatllama_pipeline.models.loading import loading


def test_a_thread_that_loads_waits_for_another_one_that_does(tmp_path: Path) -> None:
    there = threading.Event()

    def load() -> None:
        with loading(tmp_path):
            there.set()

    with loading(tmp_path):
        other = threading.Thread(target=load)
        other.start()
        assert not there.wait(0.2)
    other.join()
    assert there.is_set()
