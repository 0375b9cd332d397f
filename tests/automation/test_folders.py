"""The sensor on assistants' folders: what it sees is content, and it waits for quiet."""

from __future__ import annotations

import json
import os
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.settings.folder import content_hash
from tests.automation.ticks import Ticks, going, write


@pytest.fixture
def ticks(root: Path, instance: dg.DagsterInstance) -> Ticks:
    """The sensor after its first tick, which saw the assistant `quickstart`."""
    ticks = Ticks(instance, assistant_folders)
    assert ticks.tick()[0] == []
    return ticks


def test_a_changed_folder_is_made_once_after_two_equal_ticks(root: Path, ticks: Ticks) -> None:
    write(root, "quickstart", "seed: 1")
    assert ticks.tick()[0] == []
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.SUCCESS)
    assert ticks.tick()[0] == []


def test_a_content_that_comes_back_is_made_again(root: Path, ticks: Ticks) -> None:
    for seed in (1, 0, 1, 0):
        write(root, "quickstart", f"seed: {seed}")
        ticks.tick()
        assert ticks.tick()[0] == ["quickstart"], seed
        ticks.end(dg.DagsterRunStatus.SUCCESS)
        assert ticks.tick()[0] == []


def test_a_run_that_failed_or_was_lost_is_asked_for_three_times(root: Path, ticks: Ticks) -> None:
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.FAILURE)
    assert ticks.tick()[0] == ["quickstart"]
    # Nothing came of this one.
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.FAILURE)
    keys, why = ticks.tick()
    assert keys == []
    assert "quickstart was asked for 3 times in vain (the last run was" in why
    write(root, "quickstart", "seed: 2")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]


def test_a_run_that_a_person_ended_is_not_asked_for_again(root: Path, ticks: Ticks) -> None:
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.CANCELED)
    keys, why = ticks.tick()
    assert keys == [] and "of quickstart was ended by hand: run it again" in why
    write(root, "quickstart", "seed: 2")
    ticks.tick()
    assert ticks.tick()[0] == ["quickstart"]


def test_a_changed_folder_waits_while_a_run_of_its_assistant_goes_on(
    root: Path, ticks: Ticks
) -> None:
    run = going(ticks.instance, "quickstart")
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    assert ticks.tick() == ([], f"quickstart changed: waits for the end of run {run.run_id}")


def test_one_assistant_that_waits_keeps_no_other_from_its_run(root: Path, ticks: Ticks) -> None:
    write(root, "quickstart", "seed: 1")
    ticks.tick()
    write(root, "brand_new", "seed: 0")
    write(root, "broken", "seed: [")
    assert ticks.tick()[0] == ["quickstart"]
    ticks.end(dg.DagsterRunStatus.SUCCESS)
    assert ticks.tick()[0] == ["brand_new"]
    ticks.end(dg.DagsterRunStatus.SUCCESS)
    keys, why = ticks.tick()
    assert keys == [] and "broken/config.yaml is not valid YAML" in why


def test_a_file_is_read_again_only_when_it_changed(root: Path) -> None:
    large = root / "quickstart" / "datasets.jsonl"
    large.write_bytes(b"x" * 2**20)
    first = content_hash("quickstart", root)
    status = large.stat()
    assert content_hash("quickstart", root) == first
    large.write_bytes(b"y" * 2**20)
    # The same size, and its time of change put back: only the kernel's own time tells.
    os.utime(large, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert content_hash("quickstart", root) != first


def test_a_folder_still_being_written_waits(root: Path, ticks: Ticks) -> None:
    for seed in (1, 2, 3):
        write(root, "quickstart", f"seed: {seed}")
        keys, why = ticks.tick()
        assert keys == []
        assert "quickstart is changing" in why
    assert ticks.tick()[0] == ["quickstart"]


def test_touching_a_file_is_no_change(root: Path, ticks: Ticks) -> None:
    (root / "quickstart" / "config.yaml").touch()
    assert [ticks.tick()[0], ticks.tick()[0]] == [[], []]


def test_a_broken_change_is_told_and_asks_for_nothing(root: Path, ticks: Ticks) -> None:
    write(root, "quickstart", "sed: 1")
    ticks.tick()
    keys, why = ticks.tick()
    assert keys == []
    assert "unknown key sed; did you mean 'seed'?" in why
    assert json.loads(ticks.cursor or "{}")["quickstart"]["seen"]
