"""What tests of tiny models share: silence, words, rows of tables, and what came of a training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec

# What the fixture `make_spec` gives, and what others make of it.
MakeSpec = Callable[..., StageSpec]
QUIET = Progress("test", lambda line: None)
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"]


def row(prompt: str, split: str = "train", **columns: Any) -> dict[str, Any]:
    """A row of any table: a prompt of one turn, with the columns that its table has beside it."""
    turns = [{"role": "user", "content": prompt}]
    return {"prompt": turns, **columns, "source": "test", "split": split}


def pair(prompt: str, chosen: str, rejected: str, split: str = "train") -> dict[str, Any]:
    """A row of `preference_data`."""
    return row(prompt, split, chosen=chosen, rejected=rejected, strength=1.0, domain="")


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
