"""A training killed amid its steps and run again, against one that ran through."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Outcome, StageSpec
from tests.tiny import QUIET, hashes

Run = Callable[[StageSpec, Progress], Outcome]


def run_killed(run: Run, spec: StageSpec, at: str) -> None:
    """The training dies as soon as a line says `at`, and nothing of it is published."""

    class Killed(Exception):
        pass

    def die(line: str) -> None:
        if at in line:
            raise Killed

    with pytest.raises(Killed):
        run(spec, Progress("test", die, every_seconds=0))
    assert not hashes(spec.output)


def run_on(run: Run, spec: StageSpec, continued: str) -> None:
    """The training is run again, and says `continued`."""
    lines: list[str] = []
    run(spec, Progress("test", lines.append))
    assert any(continued in line for line in lines)


def assert_same_when_killed(
    run: Run, whole: StageSpec, cut: StageSpec, *, at: str, continued: str
) -> None:
    """`cut`, killed at a line and run again, ends in the bytes of `whole`."""
    run(whole, QUIET)
    run_killed(run, cut, at)
    run_on(run, cut, continued)
    assert hashes(whole.output) == hashes(cut.output)
