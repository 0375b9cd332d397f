"""A training killed amid its steps and run again, against one that ran through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec

Run = Callable[[StageSpec, Progress], Outcome]


def hashes(folder: str) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def assert_same_when_killed(
    run: Run, whole: StageSpec, cut: StageSpec, *, at: str, continued: str
) -> None:
    """`cut` dies as soon as a line says `at`, says `continued` when it is run again, and ends in
    the bytes of `whole`."""

    class Killed(Exception):
        pass

    def die(line: str) -> None:
        if at in line:
            raise Killed

    run(whole, Progress("test", lambda line: None))
    with pytest.raises(Killed):
        run(cut, Progress("test", die, every_seconds=0))
    assert not hashes(cut.output)
    lines: list[str] = []
    run(cut, Progress("test", lines.append))
    assert any(continued in line for line in lines)
    assert hashes(whole.output) == hashes(cut.output)
