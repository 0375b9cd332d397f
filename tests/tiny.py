"""What tests of tiny models share: silence, words, and what came of a training."""

from __future__ import annotations

import hashlib
from pathlib import Path

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome

QUIET = Progress("test", lambda line: None)
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]


def curves(outcome: Outcome) -> dict[str, list[float]]:
    """A training's curves by their names, without the steps."""
    return {curve.name: [value for _, value in curve.points] for curve in outcome.curves}


def hashes(folder: Path | str) -> dict[str, str]:
    """The SHA-256 of every file under a folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }
