"""The sensor on assistants' folders: what it sees is content, and it waits for quiet."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import ASSISTANTS
from chatllama_pipeline.automation import assistant_folders
from chatllama_pipeline.definitions import definitions


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the assistant that the definitions were loaded with."""
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path))
    write(tmp_path, "quickstart", "seed: 0")
    assert "quickstart" in ASSISTANTS.get_partition_keys()
    return tmp_path


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as made:
        yield made


def write(root: Path, name: str, config: str) -> None:
    (root / name).mkdir(exist_ok=True)
    (root / name / "config.yaml").write_text(config)


class Ticks:
    """The sensor over several ticks, its cursor kept between them."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> tuple[list[str | None], str]:
        """The partitions asked for, and why others weren't."""
        context = dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=definitions.get_repository_def(),
        )
        data = assistant_folders.evaluate_tick(context)
        self.cursor = data.cursor
        keys = [request.partition_key for request in data.run_requests or []]
        return keys, data.skip_message or ""


def test_a_changed_folder_is_made_once_after_two_equal_ticks(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    assert ticks.tick()[0] == []
    write(root, "quickstart", "seed: 1")
    assert ticks.tick()[0] == []
    assert ticks.tick()[0] == ["quickstart"]
    assert ticks.tick()[0] == []


def test_a_folder_still_being_written_waits(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    for seed in (1, 2, 3):
        write(root, "quickstart", f"seed: {seed}")
        keys, why = ticks.tick()
        assert keys == []
        assert "quickstart is changing" in why
    assert ticks.tick()[0] == ["quickstart"]


def test_touching_a_file_is_no_change(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    (root / "quickstart" / "config.yaml").touch()
    assert [ticks.tick()[0], ticks.tick()[0]] == [[], []]


def test_a_new_folder_is_skipped_with_what_to_do(root: Path, instance: dg.DagsterInstance) -> None:
    ticks = Ticks(instance)
    write(root, "brand_new", "seed: 0")
    keys, why = ticks.tick()
    assert keys == []
    assert "brand_new is new: reload definitions" in why


def test_a_broken_change_is_told_and_asks_for_nothing(
    root: Path, instance: dg.DagsterInstance
) -> None:
    ticks = Ticks(instance)
    ticks.tick()
    write(root, "quickstart", "sed: 1")
    ticks.tick()
    keys, why = ticks.tick()
    assert keys == []
    assert "unknown key sed; did you mean 'seed'?" in why
    assert json.loads(ticks.cursor or "{}")["quickstart"]["seen"]
