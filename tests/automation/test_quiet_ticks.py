"""What a tick costs where nothing changed: no file is opened, however many and large they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.keys import assistants
from chatllama_pipeline.automation.retraining import retrain
from tests.automation.ticks import Ticks, write

SIZE = 200_000


class Opened:
    """The files under a folder that this process opens while it is looked at."""

    def __init__(self) -> None:
        self.under: str | None = None
        self.paths: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and self.under is not None:
            path = arguments[0]
            text = os.fsdecode(path) if isinstance(path, str | bytes) else ""
            if text.startswith(self.under):
                self.paths.append(text.removeprefix(self.under))

    def during(self, under: Path, *ticks: Ticks) -> list[str]:
        self.under, self.paths = f"{under}/", []
        for each in ticks:
            each.tick()
        self.under = None
        return sorted(self.paths)


@pytest.fixture(scope="module")
def opened() -> Opened:
    """One for the module: an audit hook can't be taken away."""
    return Opened()


def test_a_tick_opens_what_changed_and_of_fifty_assistants_nothing_else(
    root: Path,
    instance: dg.DagsterInstance,
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "storage"))
    for number in range(50):
        write(root, f"mine_{number}", "data: {sources: []}")
        (root / f"mine_{number}" / "notes.bin").write_bytes(os.urandom(SIZE))
    all_of_them = [Ticks(instance, each) for each in (assistants, assistant_folders, retrain)]
    assert len(opened.during(root, *all_of_them)) >= 100
    # Their keys stand only now, and the first look at them is taken.
    opened.during(root, *all_of_them)
    assert opened.during(root, *all_of_them) == []
    (root / "mine_7" / "notes.bin").write_bytes(os.urandom(SIZE))
    assert opened.during(root, *all_of_them).count("mine_7/notes.bin") == 1
    assert set(opened.paths) <= {"mine_7/notes.bin", "mine_7/config.yaml"}
    assert opened.during(root, *all_of_them) == []
