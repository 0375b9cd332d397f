"""What long work says, and what short work doesn't."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.progress import Progress, counted, listening, phase, watching
from chatllama_pipeline.store.manifests import hash_file
from tests.waiting import wait_until


class Clock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    # The module's own clock: other threads of this process wait by the real one.
    monkeypatch.setattr("chatllama_pipeline.progress.time", clock)
    return clock


@pytest.fixture
def lines() -> Iterator[list[str]]:
    said: list[str] = []
    with listening(Progress("reward_model", said.append)):
        yield said


def test_a_phase_speaks_after_some_seconds_and_then_every_few(
    clock: Clock, lines: list[str]
) -> None:
    counter = phase("normalises", 706, "replies")
    for _ in range(14):
        clock.now += 1.0
        counter.advance(10)
    assert lines == [
        "reward_model: normalises: 60 of 706 replies, 65 s left",
        "reward_model: normalises: 90 of 706 replies, 62 s left",
        "reward_model: normalises: 120 of 706 replies, 59 s left",
    ]


def test_what_is_over_in_a_few_seconds_is_not_talked_about(clock: Clock, lines: list[str]) -> None:
    counter = phase("verifies", 3)
    for _ in range(3):
        clock.now += 1.9
        counter.advance()
    assert lines == []


def test_minutes_and_hours_are_told_as_such(clock: Clock, lines: list[str]) -> None:
    for total in (100, 1000):
        counter = phase("counts", total)
        clock.now += 10
        counter.advance()
    assert [line.split(", ")[1] for line in lines] == ["16 min left", "2.8 h left"]


def test_where_nothing_can_be_estimated_the_time_so_far_is_told(
    clock: Clock, lines: list[str]
) -> None:
    counter = phase("loads", 10)
    clock.now += 30
    counter.reach(0)
    clock.now += 30
    counter.reach(12)
    assert lines == ["reward_model: loads: 30 s so far", "reward_model: loads: 12 in 60 s"]


def test_items_are_told_as_they_go(clock: Clock, lines: list[str]) -> None:
    for _ in counted("reads", "abcd", 4, "rows"):
        clock.now += 7
    assert lines[0] == "reward_model: reads: 1 of 4 rows, 21 s left"
    assert len(lines) == 4


def test_nobody_needs_to_listen(clock: Clock) -> None:
    assert list(counted("reads", "ab", 2)) == ["a", "b"]
    with watching("loads", 1, lambda: 0.0):
        pass


def test_work_that_cannot_count_itself_is_looked_at() -> None:
    said: list[str] = []
    done = iter([0.0, *range(1, 99)])
    with (
        listening(Progress("release", said.append, every_seconds=0.01, first_seconds=0.01)),
        watching("saves", 200, lambda: next(done), "MB"),
    ):
        wait_until(lambda: len(said) > 2)
    assert said[0].startswith("release: saves: 1 of 200 MB, ")


def test_the_hash_of_a_large_file_is_told_by_its_megabytes(
    tmp_path: Path, clock: Clock, lines: list[str]
) -> None:
    path, content = tmp_path / "weights", bytes(range(256)) * 40_000
    path.write_bytes(content)
    counter = phase("verifies", 10, "MB")
    clock.now += 7
    assert hash_file(path, counter) == hashlib.sha256(content).hexdigest()
    assert lines == ["reward_model: verifies: 4 of 10 MB, 10 s left"]
